"""Running trials on Ray: Tune launches them, probe actors measure them, one writer records them.

`flatscale.cluster.launch` is the way in. Nothing is imported here: each of Ray's workers is a new
process, which would import all of the room for the one module it works with.
"""

from flatscale.extras import needs

needs("grpc", "ray")
