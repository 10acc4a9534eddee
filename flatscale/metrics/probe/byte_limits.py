"""How many bytes the passes let their largest arrays take: every limit of the metrics room."""

from __future__ import annotations

POINT_ROWS = 256e6
"""One point's N Jacobian rows, layer by layer: beyond it the Jacobian pass turns to estimates."""
BATCH_ROWS = 256e6
"""A microbatch's Jacobian rows, layer by layer."""
CACHED_BATCH_ROWS = 40e6
"""The same on a CPU: fresh memory beyond it costs more than larger batches save."""
CACHED_DERIVATIVES = 20e6
"""Derivatives of a CPU's microbatch that are computed at once, so that they stay in cache."""
SIGNED_ROWS = 64e6
"""A microbatch's vector-Jacobian products of random signs."""
NETWORK_GRADIENTS = 256e6
"""Gradients of whole parameters, point by point, where no layer's formula gives their norm."""
KEPT_GRADIENTS = 400e6
"""The same of all points of a shard, kept while a pass goes on."""
STORED_PRODUCTS = {"cpu": 256e6, "cuda": 4e9}
"""Products J^l^T q kept of a microbatch, by the kind of device."""
ALL_STORED_PRODUCTS = {kind: 4 * limit for kind, limit in STORED_PRODUCTS.items()}
"""The same before a search for a common subspace has to end."""
GRADIENT_GRAPH = 1e9
"""The graph of the loss's gradient, kept for further Hessian-vector products at the same theta."""
CURVATURE_ROWS = 64e6
"""Rows of the Hessian in a layer's outputs that are computed at once."""
DRAWN_ROWS = 64e6
"""Standard normals drawn for a microbatch's points."""
CACHED_WEIGHTS = {"cpu": 1.2e6, "cuda": 64e6}
"""A layer's weights of several points, made at once, by the kind of device."""
