"""drills/engine"""
