/* Preloaded into a program: appends what it sends to netlink, a line of hex a call, to the file
 * that NETLINK_RECORD names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

static void record(int fd, const struct iovec *part, size_t parts) {
  int domain = 0;
  socklen_t size = sizeof domain;
  const char *path = getenv("NETLINK_RECORD");
  if (path == NULL || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) return;
  if (domain != AF_NETLINK) return;
  FILE *file = fopen(path, "a");
  if (file == NULL) return;
  for (size_t i = 0; i < parts; i++)
    for (size_t at = 0; at < part[i].iov_len; at++)
      fprintf(file, "%02x", ((const unsigned char *)part[i].iov_base)[at]);
  fputc('\n', file);
  fclose(file);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  ssize_t (*next)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
  record(fd, message->msg_iov, message->msg_iovlen);
  return next(fd, message, flags);
}

ssize_t sendto(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to,
               socklen_t size) {
  ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
      dlsym(RTLD_NEXT, "sendto");
  struct iovec part = {(void *)bytes, length};
  record(fd, &part, 1);
  return next(fd, bytes, length, flags, to, size);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
  ssize_t (*next)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");
  struct iovec part = {(void *)bytes, length};
  record(fd, &part, 1);
  return next(fd, bytes, length, flags);
}
