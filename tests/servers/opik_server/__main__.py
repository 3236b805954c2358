"""The double as a process of its own."""

from tests.servers.opik_server.server import main

main()
