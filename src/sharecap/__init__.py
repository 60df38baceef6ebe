"""sharecap: better captions, better multimodal models (ShareGPT4V, arXiv 2311.12793)."""

__version__ = "0.1.0"
