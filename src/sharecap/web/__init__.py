"""The page: look at captions, judge them, watch runs, try a model. It never writes into a sealed layer."""
