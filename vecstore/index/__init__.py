"""Nearest neighbours. `faiss` has its home here; an index is a cache that can be thrown away at any time.

`base` has the contract and the order of hits, `exact` the exact index, `kinds` opens a saved index of any kind.
"""
