"""fleet/serving"""
