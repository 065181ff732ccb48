"""An unmodified Kombu program, told what to do one JSON line at a time."""
import base64
import datetime
import json
import socket
import sys

import kombu
from kombu.pools import reset


def dump(value):
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value


def load(value):
    if isinstance(value, dict) and list(value) == ["bytes"]:
        return base64.b64decode(value["bytes"])
    if isinstance(value, dict) and list(value) == ["datetime"]:
        return datetime.datetime.fromisoformat(value["datetime"])
    return value


def view(message, state):
    out = {
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "headers": dict(message.headers),
        "properties": {k: dump(v) for k, v in message.properties.items()
                       if k in ("correlation_id", "reply_to", "message_id", "type", "app_id", "priority",
                                "expiration", "delivery_mode", "timestamp")
                       and not isinstance(v, datetime.datetime)},
        "redelivered": bool(message.delivery_info.get("redelivered")),
        "exchange": message.delivery_info.get("exchange"),
        "routing_key": message.delivery_info.get("routing_key"),
        "type": None,
    }
    if out["properties"].get("priority") is None and message.delivery_info.get("priority") is not None:
        out["properties"]["priority"] = message.delivery_info["priority"]
    try:
        body = message.decode()
        out["body"], out["type"] = dump(body), type(body).__name__
    except Exception as e:
        out["error"] = type(e).__name__
    return out


class Peer:
    def __init__(self, url, options):
        self.conn = kombu.Connection(url, transport_options=options)
        self.exchanges = {}
        self.queues = {}
        self.held = []
        self.consumers = []

    def exchange(self, c):
        name = c.get("exchange", "")
        if name not in self.exchanges:
            self.exchanges[name] = kombu.Exchange(name, type=c.get("type", "direct"))
        return self.exchanges[name]

    def queue(self, c):
        name = c["queue"]
        if name not in self.queues:
            args = c.get("queue_options", {})
            if c.get("exchange"):
                q = kombu.Queue(name, self.exchange(c), routing_key=c.get("key", ""), **args)
            else:
                q = kombu.Queue(name, **args)
            self.queues[name] = q
        return self.queues[name]

    def declare(self, c):
        self.queue(c)(self.conn.default_channel).declare()

    def publish(self, c):
        options = {k: load(v) for k, v in c.get("options", {}).items()}
        exchange = self.exchange(c) if c.get("exchange") else ""
        producer = self.conn.Producer()
        for body in c["bodies"]:
            producer.publish(load(body), exchange=exchange, routing_key=c.get("key", ""), **options)

    def consume(self, c):
        """Takes up to n messages within a timeout and settles each as asked."""
        got = []

        def on_message(message):
            got.append(view(message, None))
            how = c.get("settle", "ack")
            if how == "ack":
                message.ack()
            elif how == "requeue":
                message.requeue()
            elif how == "reject":
                message.reject()
            else:
                self.held.append(message)

        consumer = self.conn.Consumer([self.queue(c)], on_message=on_message, prefetch_count=c.get("prefetch", 1),
                                      accept=c.get("accept", ["json", "text/plain", "application/data"]))
        consumer.consume()
        end = datetime.datetime.now() + datetime.timedelta(seconds=c.get("timeout", 5))
        while len(got) < c.get("n", 1) and datetime.datetime.now() < end:
            try:
                # Half a second: above one second Kombu's Redis transport never sweeps.
                self.conn.drain_events(timeout=0.5)
            except socket.timeout:
                pass
        if c.get("settle") == "hold":
            self.consumers.append(consumer)
        else:
            consumer.cancel()
        return got

    def subscribe(self, c):
        """Starts a consumer, so that a fan-out reaches it; take reads what it got."""
        self.got = []

        def on_message(message):
            self.got.append(view(message, None))
            message.ack()

        consumer = self.conn.Consumer([self.queue(c)], on_message=on_message, accept=["json", "text/plain", "application/data"])
        consumer.consume()
        self.consumers.append(consumer)
        try:
            self.conn.drain_events(timeout=0.2)
        except socket.timeout:
            pass

    def take(self, c):
        end = datetime.datetime.now() + datetime.timedelta(seconds=c.get("timeout", 5))
        while len(self.got) < c.get("n", 1) and datetime.datetime.now() < end:
            try:
                self.conn.drain_events(timeout=0.2)
            except socket.timeout:
                pass
        got, self.got = self.got, []
        return got

    def bind(self, c):
        """Binds a queue; returns when the broker has it."""
        channel = self.conn.default_channel
        q = kombu.Queue(c["queue"], self.exchange(c), routing_key=c["key"])
        q(channel).declare()

    def requeue_held(self, c):
        for m in self.held:
            m.requeue()
        self.held = []

    def close(self, c):
        self.conn.close()


def main():
    peer = Peer(sys.argv[1], json.loads(sys.argv[2]))
    for line in sys.stdin:
        c = json.loads(line)
        try:
            out = {"result": getattr(peer, c["op"])(c)}
        except Exception as e:
            out = {"error": "%s: %s" % (type(e).__name__, e)}
        print(json.dumps(out), flush=True)
        if c["op"] == "close":
            return


main()
