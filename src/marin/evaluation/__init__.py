"""A model to scores with error bars."""
