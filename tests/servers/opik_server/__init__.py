"""A double of an Opik backend over HTTP: keeps what the real `opik` SDK sends it, says what is amiss, can misbehave.

    with OpikServer(strict=True) as server:     # on threads of this process
        server.url                              # for OPIK_URL_OVERRIDE; ends in /api/
        server.faults([{"path": "traces/batch", "status": 429, "count": 2}])
        with server.down(): ...                 # refused meanwhile; what it holds and its port stay
        server.summary(), server.rows("spans", model="m"), server.state.traces, server.reset()

    with spawned("--strict") as server:         # a process of its own, where CPU is measured or the test is another one
        server.url, server.summary(), server.rows("traces"), server.faults([...]), server.reset()

    python -m tests.servers.opik_server --strict --port 5173

`state` is what it holds and what a real backend would refuse, `routes` the calls it answers, `faults` how it
misbehaves, `server` the sockets. Standard library only. Rows are plain dicts as they came, merged by id as the backend
merges them.

Its own routes, never counted as the SDK's: GET /_fake/summary; GET /_fake/<collection>[?field=value]; POST
/_fake/reset; GET and POST /_fake/faults (a list of rules, see `Fault`).
"""

from tests.servers.opik_server.faults import Fault
from tests.servers.opik_server.server import OpikServer, Remote, spawned
from tests.servers.opik_server.state import State, new_id

__all__ = ["Fault", "OpikServer", "Remote", "State", "new_id", "spawned"]
