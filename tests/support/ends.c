/* One program, several ways to die; the first argument says which. */
#define _GNU_SOURCE
#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifndef PLAIN
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif

__attribute__((noinline)) int divide(int a, int b) { return a / b; }
__attribute__((noinline)) int recurse(int n) {
	volatile char b[512];
	b[0] = n;
	return recurse(n + 1) + b[0];
}
__attribute__((noinline, optimize("stack-protector-all"))) int smash(int n) {
	volatile char b[8];
	for (int i = 0; i < n; i++)
		b[i] = 'A';
	return b[0];
}
__attribute__((noinline)) int lose(void) {
	((void *volatile *)__builtin_frame_address(0))[1] = (void *)0x4141414141414141;
	return 1;
}
__attribute__((noinline)) void handler(int s) {
	signal(s, SIG_DFL);
	abort();
}
__attribute__((noinline)) void report(int s, siginfo_t *info, void *context) {
	(void)info, (void)context;
	signal(s, SIG_DFL);
	abort();
}
__attribute__((noinline)) void again(int s, siginfo_t *info, void *context) {
	(void)info, (void)context;
	signal(s, SIG_DFL);
	raise(s); /* blocked until the handler has returned */
}

__attribute__((noinline)) int call(void *code) { return ((int (*)(void))code)() + 1; }
__attribute__((noinline)) int add(int *p) { return *(volatile int *)p + 1; }
__attribute__((noinline)) void *thread(void *p) { return add(p) ? p : 0; }

static char aligned[32] __attribute__((aligned(16)));

int main(int argc, char **argv) {
	const char *way = argc > 1 ? argv[1] : "divide";
	if (strcmp(way, "assert") == 0)
		assert(argc == 99 && "the message");
	if (strcmp(way, "overflow") == 0)
		return recurse(0);
	if (strcmp(way, "sigaltstack") == 0) {
		/* Between guards, so that no other mapping becomes one with it. */
		char *all = mmap(0, 3 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		stack_t own = {.ss_sp = all + (1 << 16), .ss_size = 1 << 16};
		mprotect(own.ss_sp, own.ss_size, PROT_READ | PROT_WRITE);
		struct sigaction act = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
		sigaltstack(&own, 0);
		sigaction(SIGSEGV, &act, 0);
		return recurse(0);
	}
	if (strcmp(way, "handler") == 0) {
		signal(SIGSEGV, handler);
		*(volatile int *)8 = 1;
	}
	if (strcmp(way, "report") == 0 || strcmp(way, "again") == 0) {
		struct sigaction act = {.sa_sigaction = *way == 'r' ? report : again, .sa_flags = SA_SIGINFO};
		sigaction(SIGSEGV, &act, 0);
		return add((int *)8);
	}
	if (strcmp(way, "double-free") == 0) {
		char *volatile p = malloc(24);
		free(p);
		free(p);
	}
	if (strcmp(way, "overrun") == 0) {
		char *volatile p = malloc(24);
		for (int i = 0; i < 32; i++) /* into the size of the free rest */
			((volatile char *)p)[i] = 'A';
		p = malloc(4096);
	}
	if (strcmp(way, "smash") == 0)
		return smash(64 * argc);
	if (strcmp(way, "int3") == 0)
		__asm__ volatile("int3");
	if (strcmp(way, "ud2") == 0)
		__builtin_trap();
	if (strcmp(way, "wild") == 0)
		return *(volatile int *)0x8000000000000000;
	if (strcmp(way, "read-only") == 0)
		*(volatile char *)"const" = 1;
	if (strcmp(way, "null-call") == 0) {
		void (*volatile f)(void) = 0;
		f();
	}
	if (strcmp(way, "jump") == 0) {
		void (*volatile f)(void) = (void *)0x4141414141414141;
		f();
	}
	if (strcmp(way, "lost-return") == 0)
		return lose();
	if (strcmp(way, "misaligned") == 0) {
		char *volatile p = aligned + 8;
		__asm__ volatile("movaps %%xmm0, (%0)" ::"r"(p));
	}
	if (strcmp(way, "no-exec") == 0) {
		static char code[16] = {(char)0xc3};
		void (*volatile f)(void) = (void *)code;
		f();
	}
	if (strcmp(way, "halt") == 0)
		__asm__ volatile("hlt");
	if (strcmp(way, "generated") == 0) {
		/* xor %eax,%eax; mov (%rax),%eax; ret */
		char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memcpy(code + 64, "\x31\xc0\x8b\x00\xc3", 5);
		return call(code + 64);
	}
	if (strcmp(way, "thread") == 0) {
		pthread_t t;
		pthread_create(&t, 0, thread, (void *)8);
		pthread_join(t, 0);
	}
	if (strcmp(way, "cpu-time") == 0) {
		signal(SIGXCPU, SIG_DFL);
		raise(SIGXCPU);
	}
	if (strcmp(way, "named") == 0) {
		prctl(PR_SET_NAME, "new\nname\033[31m");
		*(volatile int *)8 = 1;
	}
	if (strcmp(way, "nameless") == 0) {
		/* Itself once more, with no word and no environment (Linux 5.18 gives it an empty word). */
		char *none[] = {0};
		execve("/proc/self/exe", none, none);
	}
	if (argc == 0 || !*argv[0])
		return *(volatile int *)8;
	if (strcmp(way, "kill") == 0) {
		/* ignored where a shell put the tests into the background */
		signal(SIGQUIT, SIG_DFL);
		kill(getpid(), SIGQUIT);
		pause();
	}
	if (strcmp(way, "cut") == 0) {
		int fd = open("cut", O_RDWR | O_CREAT, 0600);
		char *p = ftruncate(fd, 8192) ? 0 : mmap(0, 8192, PROT_READ, MAP_SHARED, fd, 0);
		return ftruncate(fd, 100) + ((volatile char *)p)[5000];
	}
	if (strcmp(way, "cut-call") == 0) {
		int fd = open("cut-call", O_RDWR | O_CREAT, 0600);
		char *p = ftruncate(fd, 8192) ? 0 : mmap(0, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
		return ftruncate(fd, 0) + call(p + 64);
	}
#ifndef PLAIN
	if (strcmp(way, "pkey") == 0) {
		char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
		if (key < 0)
			return 77; /* no keys in this processor, or in this kernel */
		return pkey_mprotect(p, 4096, PROT_READ | PROT_WRITE, key) + ((volatile char *)p)[8];
	}
	if (strcmp(way, "seccomp") == 0) {
		struct sock_filter f[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getppid, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog p = {4, f};
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
		syscall(__NR_getppid);
	}
#endif
	return divide(argc, argc - 2) + argc;
}
