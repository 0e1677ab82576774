/* What the kernel of a Nitro enclave offers a process, on any other machine: /dev/nsm, and vsock
 * to the parent instance. Preloaded into a program under rehearsal, it intercepts the program's
 * system calls where libc makes them:
 *
 *   open("/dev/nsm")               the security module's Unix socket, named by NITRO_MODULE
 *   ioctl(..., NSM_IOCTL_RAW)      a packet there and one back, as linux/nsm.h has it
 *   ioctl(..., RNDADDENTROPY)      the same packet, for the rehearsal to look at; random(4)
 *   socket(AF_VSOCK), connect()    TCP to the same port of 127.0.0.1, for the parent's CID alone
 *
 * Programs that the program starts run without it.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

#ifndef RTLD_NEXT /* <dlfcn.h> has it under _GNU_SOURCE alone, which declares connect() otherwise */
#define RTLD_NEXT ((void *)-1L)
#endif

/* linux/nsm.h is younger than the headers of some machines. */
struct nsm_iovec {
    uint64_t addr, len;
};
struct nsm_raw {
    struct nsm_iovec request, response;
};
#define NSM_IOCTL_RAW _IOWR(0x0A, 0x0, struct nsm_raw)
#define PARENT 3

static char module_path[sizeof(((struct sockaddr_un *)0)->sun_path)];

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("NITRO_MODULE");
    if (path)
        strncpy(module_path, path, sizeof module_path - 1);
    unsetenv("NITRO_MODULE");
    unsetenv("LD_PRELOAD");
}

static int open_module(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int module = -1;
    if (!*module_path) {
        errno = ENOENT;
        return -1;
    }
    memcpy(address.sun_path, module_path, sizeof address.sun_path);
    module = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (module >= 0 && connect(module, (struct sockaddr *)&address, sizeof address)) {
        close(module);
        errno = ENOENT;
        return -1;
    }
    return module;
}

#define OPEN(name)                                                                  \
    int name(const char *path, int flags, ...) {                                    \
        int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);              \
        va_list arguments;                                                          \
        mode_t mode;                                                                \
        if (!strcmp(path, "/dev/nsm"))                                              \
            return open_module();                                                   \
        va_start(arguments, flags);                                                 \
        mode = va_arg(arguments, mode_t); /* rubbish, and unused, without O_CREAT */ \
        va_end(arguments);                                                          \
        return next(path, flags, mode);                                             \
    }
OPEN(open)
OPEN(open64)

static int add_entropy(const struct rand_pool_info *info) {
    int module = open_module();
    if (module < 0)
        return -1;
    send(module, info, sizeof *info + info->buf_size, 0);
    close(module);
    return 0;
}

static int ask(int module, struct nsm_raw *raw) {
    ssize_t length;
    if (send(module, (void *)(uintptr_t)raw->request.addr, raw->request.len, 0) < 0)
        return -1;
    length = recv(module, (void *)(uintptr_t)raw->response.addr, raw->response.len, MSG_TRUNC);
    if (length <= 0 || (uint64_t)length > raw->response.len) {
        errno = length < 0 ? errno : length ? EMSGSIZE : EIO;
        return -1;
    }
    raw->response.len = length;
    return 0;
}

int ioctl(int descriptor, unsigned long request, ...) {
    int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    va_list arguments;
    void *argument;
    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request == NSM_IOCTL_RAW)
        return ask(descriptor, argument);
    if (request == RNDADDENTROPY)
        return add_entropy(argument);
    return next(descriptor, request, argument);
}

int socket(int domain, int type, int protocol) {
    int (*next)(int, int, int) = dlsym(RTLD_NEXT, "socket");
    return next(domain == AF_VSOCK ? AF_INET : domain, type, protocol);
}

int connect(int descriptor, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    const struct sockaddr_vm *vsock = (const void *)address;
    struct sockaddr_in tcp = {.sin_family = AF_INET};
    if (address->sa_family != AF_VSOCK)
        return next(descriptor, address, length);
    if (vsock->svm_cid != PARENT) {
        errno = ENODEV;
        return -1;
    }
    tcp.sin_port = htons(vsock->svm_port);
    tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return next(descriptor, (struct sockaddr *)&tcp, sizeof tcp);
}
