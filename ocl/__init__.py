"""Learn, freeze and probe object-centric representations."""

__version__ = "0.1.0"
