"""Whether a bar can be drawn over itself: in a terminal and a notebook, but not in a log."""

import builtins
import sys


def drawn_over() -> bool:
    """Whether what is shown next may take the place of what was shown before.

    A notebook's streams are no terminals; IPython names itself among the builtins.
    """
    return sys.stderr.isatty() or hasattr(builtins, "__IPYTHON__")
