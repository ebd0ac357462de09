"""Which pair is where in an epoch (``plan``), and the loader that carries it out."""
