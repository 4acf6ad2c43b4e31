/*
 * dies FILTER LIBRARY: sets its coredump_filter, loads a library, starts
 * threads with names and thread-local values, and dies of what the library does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct pair { int number; const char *text; struct pair *next; };

__thread int tls_number = 5;
__thread char tls_text[16];
struct pair pairs[2] = { { 1, "one", &pairs[1] }, { 2, "two", &pairs[0] } };
double fraction = 1.5;
char *anonymous;
static pthread_barrier_t barrier;

static void *waits(void *arg)
{
	tls_number = 100 + (int)(long)arg;
	snprintf(tls_text, sizeof tls_text, "thread-%ld", (long)arg);
	pthread_barrier_wait(&barrier);
	for (;;)
		pause();
	return arg;
}

__attribute__((noinline)) static int descend(int (*die)(int), int depth, struct pair *p)
{
	char marker[16] = "on the stack";
	__asm__ volatile("" ::"r"(marker) : "memory");
	if (depth)
		return descend(die, depth - 1, p->next) + marker[0];
	return die(p->number);
}

#ifdef STATIC
static int die(int n) { volatile int *nowhere = (int *)0x10; return *nowhere + n; }
#endif

int main(int argc, char **argv)
{
	int (*doom)(int);
	if (argc < 3)
		return 2;
	FILE *f = fopen("/proc/self/coredump_filter", "w");
	if (!f || fprintf(f, "%s", argv[1]) < 0 || fclose(f))
		return 3;
#ifdef STATIC
	doom = die;
#else
	void *library = dlopen(argv[2], RTLD_NOW);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 4;
	}
	*(void **)&doom = dlsym(library, "die");
#endif
	anonymous = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(anonymous, "anonymous memory");
	pthread_barrier_init(&barrier, NULL, 4);
	for (long i = 0; i < 3; i++) {
		pthread_t t;
		pthread_create(&t, NULL, waits, (void *)i);
	}
	strcpy(tls_text, "main");
	pthread_barrier_wait(&barrier);
	return descend(doom, 3, pairs);
}
