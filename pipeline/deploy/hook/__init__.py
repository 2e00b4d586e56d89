"""Not to be imported: the directory goes onto the PYTHONPATH of a SuperNode (see ``sitecustomize.py``)."""
