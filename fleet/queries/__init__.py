"""queries: profiles of Prometheus queries, one TOML file a serving system; read by ``fleet.prometheus``."""
