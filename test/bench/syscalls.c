/*
 * The reference of the micro-benchmark: the same system calls as ffi.ts, from C. Takes a number of
 * iterations and prints a line "name nanoseconds" per call.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

#define MEASURE(name, call)                                          \
  do {                                                               \
    double start = now();                                            \
    for (long i = 0; i < iterations; i++)                            \
      if ((long)(call) < 0) return 1;                                \
    printf("%s %.3f\n", name, (now() - start) / iterations);         \
  } while (0)

int main(int argc, char **argv) {
  long iterations = argc > 1 ? atol(argv[1]) : 100000;
  char byte[8] = {1};
  int pair[2];
  int zero = open("/dev/zero", O_RDONLY);
  int event = eventfd(1, EFD_NONBLOCK);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event interest = {.events = EPOLLIN}, ready[4];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) return 1;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, event, &interest) < 0) return 1;

  MEASURE("getppid", getppid());
  MEASURE("read", read(zero, byte, 1));
  MEASURE("send + recv", send(pair[0], byte, 1, MSG_NOSIGNAL) + recv(pair[1], byte, 1, 0));
  MEASURE("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_MOD, event, &interest));
  MEASURE("epoll_wait", epoll_wait(epoll, ready, 4, -1));
  return 0;
}
