"""What the contenders in Python have in common: the job (JSON on stdin), the
meter, and the kinds of work. A client has publisher(job), whose send(body) sends
one, and consumer(job, handle), whose loop(over) hands out bodies until over()."""
import json
import multiprocessing
import os
import sys
import time

BACKLOG = 1000  # as in Go's contender.Backlog
TICK = 10_000_000  # nanoseconds of /proc's unit


class Job:
    def __init__(self, values):
        self.work = values["work"]
        self.url = values.get("url") or ""
        self.queues = values["queues"]
        self.size = values["size"]
        self.raw = values.get("raw", False)
        self.seconds = values.get("for", 0) / 1e9
        self.messages = values.get("messages", 0)
        self.rate = values.get("rate", 0)
        self.confirm = values.get("confirm", False)
        self.prefetch = values.get("prefetch", 0)
        self.server_pids = values.get("server_pids") or []


def cpu_of(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def cpu_of_machine():
    with open("/proc/stat") as f:
        fields = f.readline().split()[1:8]
    return sum(int(v) for i, v in enumerate(fields) if i not in (3, 4)) * TICK


def peak_of(pid):
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


class Meter:
    def __init__(self, job):
        self.job = job
        self.count = 0
        self.latency = []
        self.helpers = []  # processes that belong to this contender
        self.end = 0.0
        self.over_at_messages = job.messages or sys.maxsize

    def read(self):
        used = time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID)
        used += sum(cpu_of(pid) for pid in self.helpers)
        server = sum(cpu_of(pid) for pid in self.job.server_pids)
        return time.monotonic_ns(), used, server, cpu_of_machine()

    def start(self):
        self.begin = self.read()
        self.end = time.monotonic() + (self.job.seconds or 3600)

    def over(self):
        return self.count >= self.over_at_messages or time.monotonic() >= self.end

    def stop(self):
        elapsed, client, server, machine = (b - a for a, b in zip(self.begin, self.read()))
        self.latency.sort()
        n = len(self.latency)
        self.figures = {
            "messages": self.count,
            "elapsed": elapsed,
            "client": client,
            "server": server,
            "foreign": max(0, machine - client - server),
            "allocs": 0,
            "peak": sum(peak_of(pid) for pid in [os.getpid()] + self.helpers),
            "p50": self.latency[n // 2] if n else 0,
            "p99": self.latency[n * 99 // 100] if n else 0,
        }


FRAME = '{"id": "0123456789abcdef", "seq": 1000000, "sent": 1700000000000000000, "price": 19.5, "payload": ""}'


def body_of(job):
    """A body as Go's contender.NewBody makes it; bytes when the job is raw."""
    text = "The quick brown fox jumps over the lazy dog. " * (job.size // 45 + 1)
    body = {"id": "0123456789abcdef", "seq": 1000000, "sent": 1700000000000000000, "price": 19.5,
            "payload": text[:max(0, job.size - len(FRAME))]}
    return json.dumps(body, separators=(",", ":")).encode() if job.raw else body


def sending(job, publisher):
    """Returns a function that sends the next body."""
    body = body_of(job)
    if job.raw:
        return lambda: publisher.send(body)
    seq, timed = 0, job.work == "latency"

    def send():
        nonlocal seq
        seq += 1
        publisher.send(dict(body, seq=seq, sent=time.time_ns() if timed else body["sent"]))

    return send


def handling(job, meter, done=None):
    """Returns a function that handles a body."""
    timed = job.work == "latency"

    def handle(body):
        if timed:
            meter.latency.append(time.time_ns() - body["sent"])
        meter.count += 1
        if done is not None:
            done.value = meter.count

    return handle


def publish(client, job, meter):
    publisher = client.publisher(job)
    send = sending(job, publisher)
    send()  # the first one connects
    meter.start()
    while not meter.over():
        send()
        meter.count += 1
    meter.stop()
    publisher.close()


def consume(client, job, meter):
    if not job.url:
        send = sending(job, client.publisher(job))
        for _ in range(job.messages):
            send()
    consumer = client.consumer(job, handling(job, meter))
    meter.start()
    consumer.loop(meter.over)
    meter.stop()
    consumer.close()


def feed(client, job, go, done, stop):
    """The publishing process of end to end and latency."""
    publisher = client.publisher(job)
    send = sending(job, publisher)
    go.wait()
    if job.work == "latency":
        due = time.monotonic()
        while not stop.is_set():
            send()
            due += 1 / job.rate
            time.sleep(max(0, due - time.monotonic()))
        return
    sent = 0
    while not stop.is_set():
        if sent - done.value > BACKLOG:
            while sent - done.value > BACKLOG // 2 and not stop.is_set():
                time.sleep(0.0002)
        send()
        sent += 1


def both(client, job, meter):
    if not job.url:
        return inline(client, job, meter)
    fork = multiprocessing.get_context("fork")
    go, stop, done = fork.Event(), fork.Event(), fork.Value("q", 0, lock=False)
    feeder = fork.Process(target=feed, args=(client, job, go, done, stop), daemon=True)
    feeder.start()
    meter.helpers.append(feeder.pid)
    consumer = client.consumer(job, handling(job, meter, done))
    consumer.subscribe()
    meter.start()
    go.set()
    consumer.loop(meter.over)
    meter.stop()
    stop.set()
    consumer.close()
    feeder.join(10)


def inline(client, job, meter):
    """Both within this process: a hundred in, a hundred out, or one in its time."""
    burst = 1 if job.rate else 100
    send = sending(job, client.publisher(job))
    consumer = client.consumer(job, handling(job, meter))
    consumer.subscribe()
    meter.start()
    due = time.monotonic()
    while not meter.over():
        goal = meter.count + burst
        for _ in range(burst):
            send()
        consumer.loop(lambda: meter.count >= goal)
        if job.rate:
            due += 1 / job.rate
            time.sleep(max(0, due - time.monotonic()))
    meter.stop()
    consumer.close()


def idle(client, job, meter):
    consumer = client.consumer(job, handling(job, meter))
    consumer.subscribe()
    meter.start()
    consumer.loop(meter.over)
    meter.stop()
    consumer.close()


def main(client):
    job = Job(json.load(sys.stdin))
    meter = Meter(job)
    work = {"publish": publish, "consume": consume, "e2e": both, "latency": both, "idle": idle}
    work[job.work](client, job, meter)
    print(json.dumps(meter.figures), flush=True)
