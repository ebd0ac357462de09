"""How good predictions are, exactly as the official scripts of VQA, GQA and NLVR2 count it."""
