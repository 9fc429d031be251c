"""fleet/environments"""
