/*
 * Both ends of the UDP benchmark, made so that neither is what is measured: batches of sendmmsg(2)
 * and recvmmsg(2) on one socket each, and every session is a source address of its own, named by
 * IP_PKTINFO.
 *
 *   load echo PORT                                  sends back whatever arrives
 *   load closed TARGET PORT FIRST SESSIONS SIZE SECONDS WINDOW [PID...]
 *   load open   TARGET PORT FIRST SESSIONS SIZE SECONDS RATE   [PID...]
 *
 * FIRST is the source address of the first session; the others follow it. A SIZE of 64x16 is 16
 * datagrams of 64 bytes of a session at once, by UDP_SEGMENT. `closed` keeps WINDOW datagrams under
 * way, `open` sends RATE of them a second whatever comes back. Prints one line of JSON, with the CPU
 * time that the processes PID have used meanwhile and their resident memory.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  BATCH = 64,
  SIZE_MAX_ = 65536,
  SLOTS = 1 << 20,
  BUCKETS = 64 * 32,
  CONTROL = CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(uint16_t))
};

static const uint64_t SECOND = 1000000000, LOST_AFTER = 200000000;

/* What a datagram begins with. */
struct stamp {
  uint32_t slot, check;
  uint64_t sent;
};

struct batch {
  struct mmsghdr messages[BATCH];
  struct iovec vectors[BATCH];
  struct sockaddr_in names[BATCH];
  char control[BATCH][CONTROL] __attribute__((aligned(8)));
  char *payload;
};

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static void need(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static int open_socket(uint16_t port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 8 << 20;
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
  need(fd >= 0, "socket");
  /* What is lost here would be blamed on others. */
  need(!setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size), "SO_RCVBUFFORCE");
  need(!setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size), "SO_SNDBUFFORCE");
  need(!bind(fd, (struct sockaddr *)&any, sizeof any), "bind");
  return fd;
}

static struct batch *make_batch(size_t size) {
  struct batch *batch = calloc(1, sizeof *batch);
  need(batch && (batch->payload = calloc(BATCH, size)), "calloc");
  for (int i = 0; i < BATCH; i++) {
    batch->vectors[i] = (struct iovec){batch->payload + (size_t)i * size, size};
    batch->messages[i].msg_hdr.msg_iov = &batch->vectors[i];
    batch->messages[i].msg_hdr.msg_iovlen = 1;
    batch->messages[i].msg_hdr.msg_name = &batch->names[i];
    batch->messages[i].msg_hdr.msg_namelen = sizeof batch->names[i];
  }
  return batch;
}

/* Sends all of them, however full the queue of the interface is. */
static void send_all(int fd, struct batch *batch, int count) {
  for (int done = 0; done < count;) {
    int sent = sendmmsg(fd, batch->messages + done, count - done, 0);
    if (sent > 0) done += sent;
    else if (errno == ECONNREFUSED || errno == EINTR || errno == ENOBUFS) continue;
    else need(0, "sendmmsg");
  }
}

static void echo(uint16_t port) {
  struct batch *batch = make_batch(SIZE_MAX_);
  int fd = open_socket(port), one = 1;
  /* The answer leaves from the address that was asked. */
  need(!setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one), "IP_PKTINFO");
  puts("ready");
  fflush(stdout);
  for (;;) {
    for (int i = 0; i < BATCH; i++) {
      batch->vectors[i].iov_len = SIZE_MAX_;
      batch->messages[i].msg_hdr.msg_control = batch->control[i];
      batch->messages[i].msg_hdr.msg_controllen = CONTROL;
      batch->messages[i].msg_hdr.msg_namelen = sizeof batch->names[i];
    }
    int count = recvmmsg(fd, batch->messages, BATCH, MSG_WAITFORONE, NULL);
    for (int i = 0; i < count; i++) {
      batch->vectors[i].iov_len = batch->messages[i].msg_len;
      struct in_pktinfo *info = (void *)CMSG_DATA((struct cmsghdr *)batch->control[i]);
      info->ipi_ifindex = 0;
    }
    if (count > 0) send_all(fd, batch, count);
  }
}

static struct {
  int fd;
  struct sockaddr_in target;
  uint32_t first, sessions, session;
  size_t size, burst;
  struct batch *out, *in;
  /* Of the datagram under way in each slot: when it was sent, 0 when it is back or given up. */
  uint64_t *slots;
  uint32_t *checks, *free_slots, free_count;
  uint64_t sent, received, lost, strange;
  uint64_t buckets[BUCKETS];
} load;

/* Logarithmic with 32 steps an octave: 2 % of error at most. */
static unsigned bucket(uint64_t value) {
  if (value < 32) return (unsigned)value;
  unsigned octave = 63 - (unsigned)__builtin_clzll(value);
  return (octave - 4) * 32 + (unsigned)(value >> (octave - 5)) - 32;
}

static double bucket_value(unsigned index) {
  if (index < 32) return index;
  return (double)((uint64_t)(32 + index % 32) << (index / 32 - 1));
}

static double percentile(double part) {
  uint64_t seen = 0;
  for (unsigned i = 0; i < BUCKETS; i++) {
    seen += load.buckets[i];
    if (seen > 0 && (double)seen >= part * (double)load.received) return bucket_value(i) / 1000;
  }
  return 0;
}

/* The next session's address is the source of message `at`. */
static void name_session(int at) {
  struct cmsghdr *control = (struct cmsghdr *)load.out->control[at];
  struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(control);
  info->ipi_spec_dst.s_addr = htonl(load.first + load.session);
  if (++load.session == load.sessions) load.session = 0;
}

static void queue(int at) {
  char *payload = load.out->vectors[at].iov_base;
  for (size_t i = 0; i < load.burst; i++) {
    struct stamp stamp = {load.free_slots[--load.free_count], 0, now()};
    stamp.check = ++load.checks[stamp.slot];
    load.slots[stamp.slot] = stamp.sent;
    memcpy(payload + i * load.size, &stamp, sizeof stamp);
  }
  name_session(at);
}

/* Whole bursts only; what is left of `count` may be sent next time. */
static void send_some(uint64_t count) {
  uint64_t bursts = (count < load.free_count ? count : load.free_count) / load.burst;
  while (bursts > 0) {
    int some = 0;
    while (some < BATCH && bursts > 0) queue(some++), bursts--;
    send_all(load.fd, load.out, some);
    load.sent += (uint64_t)some * load.burst;
  }
}

static void take(int at, uint64_t time) {
  struct stamp stamp;
  memcpy(&stamp, load.in->vectors[at].iov_base, sizeof stamp);
  struct sockaddr_in *from = &load.in->names[at];
  int same = from->sin_addr.s_addr == load.target.sin_addr.s_addr &&
             from->sin_port == load.target.sin_port && load.in->messages[at].msg_len == load.size;
  if (!same || stamp.slot >= SLOTS || load.checks[stamp.slot] != stamp.check ||
      load.slots[stamp.slot] == 0) {
    load.strange++;
    return;
  }
  load.slots[stamp.slot] = 0;
  load.free_slots[load.free_count++] = stamp.slot;
  load.received++;
  load.buckets[bucket(time - stamp.sent)]++;
}

static int receive(void) {
  int count = recvmmsg(load.fd, load.in->messages, BATCH, MSG_DONTWAIT, NULL);
  uint64_t time = now();
  for (int i = 0; i < count; i++) take(i, time);
  return count < 0 ? 0 : count;
}

/* Gives up what is too old; answers how many. */
static unsigned give_up(uint64_t before, uint32_t slots) {
  unsigned count = 0;
  for (uint32_t slot = 0; slot < slots; slot++) {
    if (load.slots[slot] == 0 || load.slots[slot] > before) continue;
    load.slots[slot] = 0;
    load.free_slots[load.free_count++] = slot;
    count++;
  }
  load.lost += count;
  return count;
}

static void wait_until(uint64_t time) {
  uint64_t from = now();
  if (time <= from) return;
  struct timespec left = {(time_t)((time - from) / SECOND), (long)((time - from) % SECOND)};
  struct pollfd readable = {.fd = load.fd, .events = POLLIN};
  ppoll(&readable, 1, &left, NULL);
}

static void run_closed(uint64_t end, uint32_t window) {
  uint64_t look = 0;
  for (uint64_t time = now(); time < end; time = now()) {
    int count = receive();
    if (time > look) {
      look = time + LOST_AFTER / 10;
      give_up(time - LOST_AFTER, window);
    }
    /* What is free is what is not under way. */
    if (load.free_count >= load.burst) send_some(load.free_count);
    else if (count == 0) wait_until(time + LOST_AFTER / 10);
  }
}

static void run_open(uint64_t start, uint64_t end, double rate) {
  const uint64_t quantum = 100000;
  for (uint64_t time = now(); time < end; time = now()) {
    uint64_t due = (uint64_t)((double)(time - start) * rate / (double)SECOND);
    uint64_t left = due > load.sent ? due - load.sent : 0, most = BATCH * load.burst;
    if (left >= load.burst) send_some(left < most ? left : most);
    if (receive() == 0 && left < load.burst) wait_until(time + quantum);
  }
}

static void settle(uint32_t slots) {
  uint64_t end = now() + LOST_AFTER;
  while (load.free_count < slots && now() < end) {
    wait_until(end);
    while (receive() > 0) continue;
  }
  give_up(UINT64_MAX, slots);
}

/* To the nanosecond: what proc(5) tells is in ticks of 10 ms. */
static double cpu_seconds(int pid) {
  clockid_t clock;
  struct timespec time;
  need(clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &time) == 0, "CPU clock");
  return (double)time.tv_sec + (double)time.tv_nsec / (double)SECOND;
}

static double cpu_of(char **pids) {
  double sum = 0;
  for (; *pids; pids++) sum += cpu_seconds(atoi(*pids));
  return sum;
}

static long resident_kib(char **pids) {
  long sum = 0;
  for (; *pids; pids++) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/statm", *pids);
    FILE *file = fopen(path, "r");
    long pages = 0;
    need(file && fscanf(file, "%*d %ld", &pages) == 1, path);
    fclose(file);
    sum += pages * (sysconf(_SC_PAGESIZE) / 1024);
  }
  return sum;
}

static void prepare(char **argv) {
  load.target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
  struct in_addr first;
  need(inet_pton(AF_INET, argv[2], &load.target.sin_addr) == 1, argv[2]);
  need(inet_pton(AF_INET, argv[4], &first) == 1, argv[4]);
  load.first = ntohl(first.s_addr);
  /* Always the same for one FIRST, so that a session outlives one run. */
  load.fd = open_socket((uint16_t)(20000 + load.first % 10000));
  load.sessions = (uint32_t)atoi(argv[5]);
  load.size = (size_t)atoi(argv[6]);
  load.burst = strchr(argv[6], 'x') ? (size_t)atoi(strchr(argv[6], 'x') + 1) : 1;
  load.out = make_batch(load.size * load.burst);
  load.in = make_batch(load.size + 1);
  load.slots = calloc(SLOTS, sizeof *load.slots);
  load.checks = calloc(SLOTS, sizeof *load.checks);
  load.free_slots = calloc(SLOTS, sizeof *load.free_slots);
  for (int i = 0; i < BATCH; i++) {
    load.out->names[i] = load.target;
    struct msghdr *message = &load.out->messages[i].msg_hdr;
    message->msg_control = load.out->control[i];
    message->msg_controllen = sizeof load.out->control[i];
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    control->cmsg_level = IPPROTO_IP;
    control->cmsg_type = IP_PKTINFO;
    control->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
    uint16_t segment = (uint16_t)load.size;
    control = CMSG_NXTHDR(message, control);
    control->cmsg_level = SOL_UDP;
    control->cmsg_type = UDP_SEGMENT;
    control->cmsg_len = CMSG_LEN(sizeof segment);
    memcpy(CMSG_DATA(control), &segment, sizeof segment);
    if (load.burst == 1) message->msg_controllen = CMSG_SPACE(sizeof(struct in_pktinfo));
  }
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "echo") == 0) echo((uint16_t)atoi(argv[2]));
  if (argc < 9) return fputs("usage: see load.c\n", stderr), 2;
  prepare(argv);
  int closed = strcmp(argv[1], "closed") == 0;
  uint32_t slots = closed ? (uint32_t)atoi(argv[8]) : SLOTS;
  while (load.free_count < slots) {
    load.free_slots[load.free_count] = slots - 1 - load.free_count;
    load.free_count++;
  }
  char **pids = argv + 9;
  double cpu = cpu_of(pids);
  uint64_t start = now(), end = start + (uint64_t)(atof(argv[7]) * (double)SECOND);
  if (closed) run_closed(end, slots);
  else run_open(start, end, atof(argv[8]));
  double seconds = (double)(now() - start) / (double)SECOND;
  settle(slots);
  printf("{\"seconds\":%.6f,\"sent\":%llu,\"received\":%llu,\"lost\":%llu,\"strange\":%llu,"
         "\"p50\":%.1f,\"p99\":%.1f,\"cpu\":%.6f,\"kib\":%ld}\n",
         seconds, (unsigned long long)load.sent, (unsigned long long)load.received,
         (unsigned long long)load.lost, (unsigned long long)load.strange, percentile(0.5),
         percentile(0.99), cpu_of(pids) - cpu, resident_kib(pids));
  return 0;
}
