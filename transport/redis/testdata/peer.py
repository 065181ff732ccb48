"""A Kombu peer for the tests: one JSON command a line in, one JSON answer a line out."""
import base64
import json
import socket
import sys

import kombu
from kombu import Connection, Consumer, Exchange, Producer, Queue

url, options = sys.argv[1], json.loads(sys.argv[2])
connection = Connection(url, transport_options=options)
channel = connection.channel()
producer = Producer(channel)
exchanges, consumers, inbox, held = {}, [], [], {}


def exchange(c):
    name = c.get("exchange", "")
    return exchanges.setdefault(name, Exchange(name, c.get("type", "direct"))) if name else ""


def queue(c):
    e = exchange(c)
    return Queue(c["queue"], e, routing_key=c.get("key", "")) if e else Queue(c["queue"])


def arrived(body, message):
    tag = str(len(held))
    held[tag] = message
    inbox.append({
        "tag": tag, "body": base64.b64encode(message.body if isinstance(message.body, bytes) else message.body.encode()).decode(),
        "content_type": message.content_type, "headers": message.headers, "properties": message.properties,
        "exchange": message.delivery_info.get("exchange"), "key": message.delivery_info.get("routing_key"),
        "redelivered": bool(message.delivery_info.get("redelivered")),
    })


def run(c):
    op = c["op"]
    if op == "version":
        return kombu.__version__
    if op == "declare":
        queue(c)(channel).declare()
    elif op == "publish":
        body = base64.b64decode(c["bytes"]) if "bytes" in c else c["body"]
        e = exchange(c)
        if e:
            e(channel).declare()
        producer.publish(body, exchange=e, routing_key=c.get("key", ""), **c.get("with", {}))
    elif op == "consume":
        consumer = Consumer(channel, [queue(c)], callbacks=[arrived], no_ack=c.get("no_ack", False), accept=["json", "text/plain", "application/data"])
        if "prefetch" in c:
            consumer.qos(prefetch_count=c["prefetch"])
        consumer.consume()
        consumers.append(consumer)
    elif op == "drain":
        try:
            connection.drain_events(timeout=c["timeout"])
        except socket.timeout:
            pass
        out, inbox[:] = inbox[:], []
        return out
    elif op in ("ack", "requeue", "reject"):
        getattr(held.pop(c["tag"]), op)()
    else:
        raise ValueError(op)
    return None


for line in sys.stdin:
    try:
        answer = {"ok": run(json.loads(line))}
    except Exception as e:
        answer = {"error": repr(e)}
    print(json.dumps(answer), flush=True)
