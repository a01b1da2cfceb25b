"""synreal: when is a synthetic image as good as a real one for training a classifier?"""

__version__ = "0.1.0"
