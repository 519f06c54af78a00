"""Health checks of the containers, cheap enough for every half minute: no Dagster is imported.

`python -m homelab_pipelines.container_health code-server|webserver|socket-proxy` ends with 0 when that part answers.
"""

from __future__ import annotations

import sys
import urllib.request

CODE_SERVER_PORT = 4000
WEBSERVER_PORT = 3000
SOCKET_PROXY_PORT = 2375
_SECONDS = 10.0


def code_server(port: int = CODE_SERVER_PORT, host: str = "127.0.0.1") -> str:
    """What is wrong with the code server, in words; empty when it serves."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        # The name under which Dagster's server reports (dagster._grpc.server).
        request = health_pb2.HealthCheckRequest(service="DagsterApi")
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            return f"the code server on port {port} does not answer: {error.code().name}"
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if status == "SERVING" else f"the code server on port {port} says {status}"


def webserver(port: int = WEBSERVER_PORT) -> str:
    """What is wrong with the webserver, in words; empty when it answers."""
    return _http("the webserver", f"http://127.0.0.1:{port}/server_info")


def socket_proxy(port: int = SOCKET_PROXY_PORT) -> str:
    """What is wrong with the socket proxy or the engine behind it, in words; empty when both answer."""
    return _http("the socket proxy", f"http://127.0.0.1:{port}/_ping")


def _http(part: str, url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_SECONDS):
            return ""
    except OSError as error:
        return f"{part} at {url} does not answer: {error}"


PARTS = {"code-server": code_server, "webserver": webserver, "socket-proxy": socket_proxy}


def main(arguments: list[str]) -> int:
    """0 when the part is well; 1 when not, saying why; 2 for a wrong call."""
    if len(arguments) != 1 or arguments[0] not in PARTS:
        print(f"say which part: {' or '.join(PARTS)}", file=sys.stderr)  # noqa: T201 (docker keeps it as the log)
        return 2
    problem = PARTS[arguments[0]]()
    if problem:
        print(problem, file=sys.stderr)  # noqa: T201
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
