/*
 * Who waits on the loop while the serving thread waits in read().
 *
 * A thread that waits on an epoll instance takes three system calls a request: wait, read, reply. While nobody but the
 * device has anything to say, two will do: read() waits by itself. For that its descriptor is switched to blocking, and
 * taken out of what the epoll instance reports. A second thread, the watcher, waits there in its place. When something happens, or the
 * time is over, it switches the descriptor back and sends a signal. So a read() that waits ends with EINTR, one that is
 * about to wait ends with EAGAIN, and nothing is missed in between.
 *
 * The watcher is made when it is first wanted, and sleeps between end_watch() and the next begin_watch().
 */

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>

#define WAKE_UP (SIGRTMIN + 1)  /* its handler does nothing: what counts is that a system call ends */
enum { WATCHER_STACK = 128 * 1024 };

static struct {
    int is_there;
    pthread_t thread;
    sem_t begin, ended;
    /* What it is to do, written before `begin`. */
    pthread_t server;           /* whom to wake */
    int fd, flags;              /* the descriptor in whose read() that one waits, and its flags while it does not wait there */
    int epoll;
    double deadline_s;
    atomic_int is_over;         /* the server is back by itself */
    atomic_int has_woken;       /* something has happened, or the time is over */
} watcher;

static void on_wake_up(int number)
{
    (void)number;
}

static void *watch(void *nothing)
{
    sigset_t all_but_one;

    sigfillset(&all_but_one);
    sigdelset(&all_but_one, WAKE_UP);
    for (;;) {
        while (sem_wait(&watcher.begin) != 0)
            continue;
        while (!watcher.is_over) {
            struct pollfd loop = {watcher.epoll, POLLIN, 0};
            int left_ms = time_left(watcher.deadline_s);
            struct timespec left = {left_ms / 1000, left_ms % 1000 * 1000000L};
            if (ppoll(&loop, 1, left_ms < 0 ? NULL : &left, &all_but_one) < 0 && errno == EINTR)
                continue;
            watcher.has_woken = 1;
            fcntl(watcher.fd, F_SETFL, watcher.flags);
            pthread_kill(watcher.server, WAKE_UP);
            break;
        }
        sem_post(&watcher.ended);
    }
    return nothing;
}

/* It gets no signals but for WAKE_UP while it waits: the service's are the serving thread's. */
static int start_watcher(void)
{
    struct sigaction action = {.sa_handler = on_wake_up}; /* no SA_RESTART: a read() is to end */
    pthread_attr_t attributes;
    sigset_t all, before;

    if (watcher.is_there)
        return 1;
    if (sem_init(&watcher.begin, 0, 0) != 0 || sem_init(&watcher.ended, 0, 0) != 0
        || sigaction(WAKE_UP, &action, NULL) != 0 || pthread_attr_init(&attributes) != 0)
        return 0;
    sigfillset(&all);
    pthread_attr_setstacksize(&attributes, WATCHER_STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    watcher.is_there = pthread_create(&watcher.thread, &attributes, watch, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return watcher.is_there;
}

/*
 * Let read() of `fd`, which is one of those that `epoll` reports when they can be read, wait until anything else happens
 * there or `deadline_s` has come. False: there is no thread to be had, and nothing has changed.
 */
static int begin_watch(int fd, int epoll, double deadline_s)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || !start_watcher() || epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL) != 0)
        return 0;
    watcher.server = pthread_self();
    watcher.fd = fd;
    watcher.flags = flags;
    watcher.epoll = epoll;
    watcher.deadline_s = deadline_s;
    watcher.is_over = watcher.has_woken = 0;
    fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    sem_post(&watcher.begin);
    return 1;
}

/* All is as before begin_watch() when this returns, and the watcher sleeps. */
static void end_watch(void)
{
    struct epoll_event readable = {EPOLLIN, {.fd = watcher.fd}};

    watcher.is_over = 1;
    if (!watcher.has_woken)
        pthread_kill(watcher.thread, WAKE_UP);
    while (sem_wait(&watcher.ended) != 0)
        continue;
    fcntl(watcher.fd, F_SETFL, watcher.flags);
    epoll_ctl(watcher.epoll, EPOLL_CTL_ADD, watcher.fd, &readable);
}
