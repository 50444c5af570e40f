"""A boosted forest whose every split is chosen from sums over all tenants' rows, and from nothing else.

A split is chosen by how many rows a node has in each bin of a column, and by the sums of their gradients and hessians.
Those are sums over tenants, which is what an encrypted round computes; in whole numbers they are exact, so the forest
is that of all rows in one place, tree for tree, however the rows are shared out.
"""
