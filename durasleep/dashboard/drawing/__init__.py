"""Pictures as numbers: where everything stands. The templates draw them as SVG."""
