"""The classical comparisons, as study files: `make comparisons`."""
