"""pika's BlockingConnection, on amqp://. Behind common.py."""
import json

import pika


def connect(job):
    conn = pika.BlockingConnection(pika.URLParameters(job.url.rstrip("/") + "/%2F"))
    channel = conn.channel()
    channel.queue_declare(job.queues[0], durable=True)
    return conn, channel


class Publisher:
    def __init__(self, job):
        self.conn, self.channel = connect(job)
        self.job, self.queue = job, job.queues[0]
        self.properties = pika.BasicProperties(
            content_type="application/json", content_encoding="utf-8", delivery_mode=2 if job.confirm else 1)
        if job.confirm:
            self.channel.confirm_delivery()

    def send(self, body):
        if not self.job.raw:
            body = json.dumps(body)
        self.channel.basic_publish("", self.queue, body, self.properties, mandatory=self.job.confirm)

    def close(self):
        self.conn.close()


class Consumer:
    def __init__(self, job, handle):
        self.conn, self.channel = connect(job)
        self.channel.basic_qos(prefetch_count=job.prefetch)
        self.queue, self.raw, self.handle = job.queues[0], job.raw, handle
        self.standing, self.over = False, lambda: False

    def take(self, channel, method, _, body):
        self.handle(body if self.raw else json.loads(body))
        channel.basic_ack(method.delivery_tag)

    def subscribe(self):
        if not self.standing:
            self.channel.basic_consume(self.queue, self.take)
            self.standing = True

    def loop(self, over):
        self.subscribe()
        while not over():
            self.conn.process_data_events(time_limit=0.1)

    def close(self):
        self.conn.close()


class Client:
    publisher = staticmethod(Publisher)
    consumer = staticmethod(Consumer)


main(Client)
