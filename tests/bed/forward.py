#!/usr/bin/env python3
"""Lets programs outside reach a port inside a network namespace: listens on a free port of this
namespace's loopback, then moves into NETNS and connects from there.

    forward.py NETNS PORT PORTFILE      writes the port it listens on to PORTFILE
"""
import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (ConnectionError, OSError):
        writer.close()


async def main(netns, port, portfile):
    listener = socket.create_server(("127.0.0.1", 0))
    with open(f"/run/netns/{netns}") as ns:
        if ctypes.CDLL(None, use_errno=True).setns(ns.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    async def serve(reader, writer):
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        inner_writer.close()
        writer.close()

    server = await asyncio.start_server(serve, sock=listener)
    with open(portfile + ".new", "w") as out:
        print(listener.getsockname()[1], file=out)
    os.rename(portfile + ".new", portfile)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
