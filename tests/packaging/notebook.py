"""Runs cells as a notebook does, in a kernel of its own, and writes what they put out as JSON.

The command line is the JSON of the cells' sources. It needs nbclient, ipykernel and ipywidgets, so
tests run it in an environment that has them.
"""

import json
import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.v4.new_notebook(
    cells=[nbformat.v4.new_code_cell(source) for source in json.loads(sys.argv[1])]
)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
json.dump([cell.outputs for cell in notebook.cells], sys.stdout)
