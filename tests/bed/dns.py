#!/usr/bin/env python3
"""A name server that knows two answers: root servers for NS queries, 192.0.2.1 / 2001:db8::1 for A / AAAA.

    dns.py [ADDRESS [PORT]]      UDP and TCP, default 0.0.0.0 53
"""
import asyncio
import struct
import sys

A, NS, AAAA = 1, 2, 28


def name(text):
    return b"".join(bytes([len(p)]) + p.encode() for p in text.rstrip(".").split(".") if p) + b"\0"


def answer(query):
    """The response to one DNS message, or None if it is not a query."""
    if len(query) < 17 or query[2] & 0x80:
        return None
    end = 12
    while query[end]:
        end += query[end] + 1
    end += 5
    (kind,) = struct.unpack("!H", query[end - 4:end - 2])
    data = {
        NS: [name(f"{letter}.root-servers.net") for letter in "abcdefghijklm"],
        A: [bytes([192, 0, 2, 1])],
        AAAA: [bytes.fromhex("20010db8" + "0" * 23 + "1")],
    }.get(kind, [])
    header = query[:2] + struct.pack("!HHHHH", 0x8580 | (query[2] & 1) << 8, 1, len(data), 0, 0)
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(d)) + d for d in data)
    return header + query[12:end] + records


class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        try:
            reply = answer(data)
        except (IndexError, struct.error):
            return
        if reply:
            self.transport.sendto(reply, peer)


async def tcp(reader, writer):
    try:
        while True:
            size, = struct.unpack("!H", await reader.readexactly(2))
            reply = answer(await reader.readexactly(size))
            if reply:
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, IndexError, struct.error):
        pass
    finally:
        writer.close()


async def main(address="0.0.0.0", port="53"):
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Udp, (address, int(port)))
    server = await asyncio.start_server(tcp, address, int(port))
    print(f"answering on {address}:{port}", flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
