"""The page at `/docs`: schemas, a form that sends requests, and the curl line. Nothing in it comes from elsewhere."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from runtime.drivers.http.docs_page import DOCS

FAVICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="4" fill="#0b57d0"/>'
    b'<path d="M5 3v10M5 9l5-6M7 7l4 6" fill="none" stroke="#fff" stroke-width="2"/></svg>'
)
# Nothing may be loaded but from the driver itself; scripts and styles stand in the page.
POLICY = "default-src 'none'; connect-src 'self'; img-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


async def docs(request: Request) -> Response:
    headers = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"}
    return Response(DOCS, headers=headers, media_type="text/html")


async def favicon(request: Request) -> Response:
    return Response(FAVICON, headers={"Cache-Control": "max-age=86400"}, media_type="image/svg+xml")


async def root(request: Request) -> Response:
    return RedirectResponse("docs")
