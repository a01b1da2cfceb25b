"""synreal: when is a synthetic image as good as a real one for training a classifier?"""

import warnings

__version__ = "0.1.0"

# Libraries look for widgets when imported; plain progress bars are what a stored page can show.
warnings.filterwarnings("ignore", message="IProgress not found")
