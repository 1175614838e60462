"""The service's HTTP server: webhooks, health and metrics."""

from service_server.http.limits import HttpLimits
from service_server.http.server import HttpServer

__all__ = ["HttpLimits", "HttpServer"]
