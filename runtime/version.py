"""The version of the product, in one place for the package, the CLI and the images."""

__version__ = "0.1.0.dev0"
