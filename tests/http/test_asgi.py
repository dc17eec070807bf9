from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from logplex.http import Asgi

from .client import DEADLINE_SECONDS, HOST, serving


async def show(request: Request) -> Response:
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "raw": request.scope["raw_path"].decode(),
            "query": dict(request.query_params),
            "body": body.decode(),
            "host": request.headers["host"],
            "client": request.client.host if request.client else None,
            "scheme": request.url.scheme,
        },
        headers={"X-Own": "1"},
    )


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            await trio.lowlevel.checkpoint()

    return StreamingResponse(pieces())


async def endless(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    return StreamingResponse(pieces())


async def crash(request: Request) -> Response:
    raise ValueError("a bug")


async def hostile(request: Request) -> Response:
    return PlainTextResponse("x", headers={"X": "a\r\nSet-Cookie: b"})


APP = Starlette(
    routes=[
        Route("/show/{rest:path}", show, methods=["GET", "POST"]),
        Route("/stream", stream),
        Route("/endless", endless),
        Route("/crash", crash),
        Route("/hostile", hostile),
    ]
)


def get(path: str, method: str = "GET", *lines: bytes, body: bytes = b"") -> bytes:
    head = [f"{method} {path} HTTP/1.1\r\n".encode(), HOST, *lines, b"Content-Length: %d\r\n" % len(body), b"\r\n"]
    return b"".join(head) + body


def app(max_body_bytes: int = 1000) -> Any:
    return serving({}, fallback=Asgi(APP, max_body_bytes))


async def test_an_application_sees_the_request_and_its_answer_arrives() -> None:
    async with app() as running, running.client() as client:
        await client.send(get("/show/a%20%C3%A4?b=c%26", "POST", body=b"hello"))
        answer = await client.answer()
        assert answer.status == 200
        assert answer.headers["x-own"] == "1"
        assert answer.headers["content-type"] == "application/json"
        assert b'"body":"hello"' in answer.body
        assert '"path":"/show/a ä"'.encode() in answer.body or b'"path":"/show/a%20%C3%A4"' in answer.body
        assert b'"raw":"/show/a%20%C3%A4"' in answer.body
        assert b'"query":{"b":"c&"}' in answer.body
        assert b'"client":"127.0.0.1","scheme":"http"' in answer.body


async def test_statuses_of_the_application_pass_through() -> None:
    async with app() as running, running.client() as client:
        await client.send(get("/nowhere"))
        assert (await client.answer()).status == 404
        await client.send(get("/stream", "DELETE"))
        assert (await client.answer()).status == 405


async def test_an_answer_in_pieces_is_a_stream() -> None:
    async with app() as running, running.client() as client:
        await client.send(get("/stream"))
        answer = await client.answer()
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body == b"012"


async def test_the_answer_to_head_is_that_of_get_without_the_body() -> None:
    async with app() as running, running.client() as client:
        for path in ("/show/x", "/stream"):
            await client.send(get(path))
            wanted = await client.answer()
            await client.send(get(path, "HEAD"))
            given = await client.answer("HEAD")
            assert given.headers.keys() == wanted.headers.keys()


async def test_a_body_over_the_limit_never_reaches_the_application() -> None:
    async with app(max_body_bytes=5) as running, running.client() as client:
        await client.send(get("/show/x", "POST", body=b"123456"))
        assert (await client.answer()).status == 413


async def test_a_crash_of_the_application_is_500() -> None:
    async with app() as running:
        for path in ("/crash", "/hostile"):
            async with running.client() as client:
                with capture_logs() as logs:
                    await client.send(get(path))
                    answer = await client.answer()
                assert answer.status == 500
                assert "set-cookie" not in answer.headers
                assert [entry["event"] for entry in logs] == ["request_crashed"]


async def test_a_client_that_goes_ends_the_stream_quietly() -> None:
    async with app() as running:
        with capture_logs() as logs:
            async with running.client() as client:
                await client.send(get("/endless"))
                await client.head()
            await running.until(lambda: running.server.connections == 0)
        assert logs == []
        assert running.ledger.requests_refused == {}


async def test_receive_gives_the_body_once_and_then_the_end_of_the_exchange() -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                seen.append(await receive())

            nursery.start_soon(listen)
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x"})

    async with serving({}, fallback=Asgi(application, 10)) as running, running.client() as client:
        await client.send(get("/", "POST", body=b"hello"))
        assert (await client.answer()).body == b"x"
        with trio.fail_after(DEADLINE_SECONDS):
            await running.until(lambda: len(seen) == 2)
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]
    assert seen[0]["body"] == b"hello"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"type": "http.response.start", "status": 200}],
        [{"type": "http.response.body", "body": b"x"}],
        [
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body", "body": b"x", "more_body": True},
        ],
    ],
)
async def test_an_answer_that_is_not_ended_is_a_crash(messages: list[dict[str, Any]]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async with serving({}, fallback=Asgi(application, 10)) as running:
        with capture_logs() as logs:
            answer = await running.exchange(get("/"))
        assert b" 500 " in answer or not answer.endswith(b"0\r\n\r\n")
        assert len(logs) == 1
