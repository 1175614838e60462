"""Odd pages of lists on request: empty pages, and lists that require a parameter."""

from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson
from aiohttp import web

from tests.stripe_simulator import errors
from tests.stripe_simulator.faults import Fault, Serve

# Page tokens that the simulator itself does not issue.
_END = "the_end"
_MIDDLE = "middle:"

Query = Mapping[str, str]


def empty_page(where: Callable[[Query], bool] = lambda _query: True) -> Fault:
    """Answer with an empty page of a v1 list that promises more.

    Args:
        where: Predicate that selects requests by their query.
    """

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        if not where(request.query):
            return await serve(request)
        return web.json_response(
            {"object": "list", "url": request.path, "has_more": True, "data": []}
        )

    return fault


def empty_last_page() -> Fault:
    """Make the last full page of a v2 list name one more page, which is empty."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        if request.query.get("page") == _END:
            return _v2_page(None)
        return await _turned(request, serve, lambda following: following or _END)

    return fault


def empty_middle_pages() -> Fault:
    """Put an empty page between every two pages of a v2 list."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        token = request.query.get("page", "")
        if token.startswith(_MIDDLE):
            return _v2_page(_url(request, token.removeprefix(_MIDDLE)))
        return await _turned(request, serve, lambda following: following and _MIDDLE + following)

    return fault


def pages_without_end() -> Fault:
    """Make the last full page of a v2 list name an empty page, which names itself."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        if request.query.get("page") == _END:
            return _v2_page(_url(request, _END))
        return await _turned(request, serve, lambda following: following or _END)

    return fault


def require(*params: str) -> Fault:
    """Refuse requests that have none of the parameters."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        if request.query.keys().isdisjoint(params):
            return errors.parameters_missing(*params).response()
        return await serve(request)

    return fault


async def _turned(
    request: web.Request, serve: Serve, turn: Callable[[str | None], str | None]
) -> web.StreamResponse:
    """Return the answer to a v2 list request, with another token for the next page."""
    answer = await serve(request)
    assert isinstance(answer, web.Response)
    if answer.status != web.HTTPOk.status_code:
        return answer
    assert isinstance(answer.body, bytes)
    page = orjson.loads(answer.body)
    query = dict(parse_qsl(urlsplit(page["next_page_url"] or "").query))
    token = turn(query.get("page"))
    return web.json_response({**page, "next_page_url": _url(request, token) if token else None})


def _url(request: web.Request, token: str) -> str:
    return f"{request.path}?{urlencode({**request.query, 'page': token})}"


def _v2_page(next_page_url: str | None) -> web.Response:
    return web.json_response(
        {"data": [], "next_page_url": next_page_url, "previous_page_url": None}
    )
