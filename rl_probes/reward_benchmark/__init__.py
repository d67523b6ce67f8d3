"""Reward predictors x encoders x tasks on generated episodes whose every step has a known worth."""
