"""Kombu as its documentation shows it, on amqp://, redis:// and memory://
(a job without URL). Behind common.py."""
import socket

import kombu


def connect(job):
    options = {}
    if job.confirm and job.url.startswith("amqp"):
        options["confirm_publish"] = True  # each publish waits for its own
    return kombu.Connection(job.url or "memory://", transport_options=options)


class Publisher:
    def __init__(self, job):
        self.conn = connect(job)
        self.producer = self.conn.Producer(serializer="json")
        self.queues, self.next = job.queues, 0
        self.options = {"delivery_mode": 2 if job.confirm else 1}
        if job.confirm:
            self.options["mandatory"] = True
        if job.raw:
            self.options.update(content_type="application/json", content_encoding="utf-8")
        for name in job.queues:
            kombu.Queue(name, channel=self.producer.channel).declare()

    def send(self, body):
        self.next += 1
        self.producer.publish(body, exchange="", routing_key=self.queues[self.next % len(self.queues)], **self.options)

    def close(self):
        self.conn.release()


class Consumer:
    def __init__(self, job, handle):
        self.conn = connect(job)
        channel = self.conn.channel()
        queues = [kombu.Queue(name, channel=channel) for name in job.queues]
        for queue in queues:
            queue.declare()
        if job.raw:
            def take(message):
                handle(message.body)
                message.ack()
            how = {"on_message": take}
        else:
            def take(body, message):
                handle(body)
                message.ack()
            how = {"callbacks": [take]}
        self.consumer = kombu.Consumer(channel, queues, accept=["json"], auto_declare=False, prefetch_count=job.prefetch, **how)
        self.standing = False

    def subscribe(self):
        if not self.standing:
            self.consumer.consume()
            self.standing = True

    def loop(self, over):
        self.subscribe()
        drain = self.conn.drain_events
        while not over():
            try:
                drain(timeout=0.1)
            except socket.timeout:
                pass

    def close(self):
        self.conn.release()


class Client:
    publisher = staticmethod(Publisher)
    consumer = staticmethod(Consumer)


main(Client)
