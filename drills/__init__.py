"""drills: one file = one drill, readable like an incident report; and the engine that runs them."""
