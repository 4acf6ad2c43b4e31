/* A library with some pages of code, whose die() divides by zero. */
#ifdef NO_TLS /* text relocations and thread-local variables do not mix */
#define __thread
#endif
__thread int library_tls = 21;
#ifndef EDITION
#define EDITION 1
#endif
const char edition[] = "edition " __DATE__ __TIME__;
int choice = EDITION;

#define FOUR(m, n) m(n##0) m(n##1) m(n##2) m(n##3)
#define FUNCTION(n)                                                            \
	int filler_##n(int a, int b)                                           \
	{                                                                      \
		for (int i = 0; i < a; i++)                                    \
			b = b * 1##n + (a ^ b) % (i + 7) + EDITION;            \
		return b;                                                      \
	}
#define SIXTEEN(n) FOUR(FUNCTION, n##0) FOUR(FUNCTION, n##1) FOUR(FUNCTION, n##2) FOUR(FUNCTION, n##3)
SIXTEEN(1) SIXTEEN(2) SIXTEEN(3) SIXTEEN(4) SIXTEEN(5) SIXTEEN(6) SIXTEEN(7) SIXTEEN(8)

__attribute__((noinline)) static int divide(int a, volatile int *b) { return a / *b; }

int die(int n)
{
	volatile int zero = 0;
	library_tls = 22;
	return divide(n + choice, &zero) + 1;
}
