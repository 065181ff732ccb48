"""A consumer as Kombu's users write it, telling gombu's ledger what it does.

Its job is the first argument, as JSON. It writes to descriptor 3, one line a
fact (see package ledger), and reads orders from standard input.
"""
import json
import os
import signal
import sys
import threading
import time

import kombu
from kombu.mixins import ConsumerMixin

job = json.loads(sys.argv[1])


def tell(text):
    os.write(3, (text + "\n").encode())


def fact(verb, ident, arg=None):
    producer, seq = ident.split("-")
    parts = [verb, producer, seq, str(time.time_ns() // 1000)]
    tell(" ".join(parts + ([arg] if arg is not None else [])))


class Worker(ConsumerMixin):
    def __init__(self, connection):
        self.connection = connection

    def get_consumers(self, Consumer, channel):
        queue = kombu.Queue(job["Queue"], no_declare=True)
        return [Consumer([queue], callbacks=[self.handle], prefetch_count=job["Prefetch"], accept=["json"])]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        tell("# ready")

    def handle(self, body, message):
        fact("b", body["id"], "0")
        if job["Work"]:
            time.sleep(job["Work"] / 1e9)
        fact("h", body["id"])
        try:
            message.ack()
        except Exception:
            fact("a", body["id"], "0")
            raise
        fact("a", body["id"], "1")


def main():
    options = {}
    if job["URL"].startswith("redis"):
        options["visibility_timeout"] = job["Visibility"] / 1e9
    with kombu.Connection(job["URL"], heartbeat=10, transport_options=options) as connection:
        worker = Worker(connection)

        def stop(*_):
            worker.should_stop = True

        def obey():
            for line in sys.stdin:
                if line.strip() == "stop":
                    stop()
            os._exit(1)  # the harness is gone

        signal.signal(signal.SIGTERM, stop)
        threading.Thread(target=obey, daemon=True).start()
        worker.run()


main()
