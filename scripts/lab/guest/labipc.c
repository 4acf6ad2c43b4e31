/*
 * labipc: System V IPC objects of every kind, and one who has another namespace.
 * Prints who that is, then waits.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

static void *segment(key_t key, size_t size, int mode, size_t touched)
{
	int id = shmget(key, size, IPC_CREAT | mode);
	char *at = id < 0 ? (void *)-1 : shmat(id, NULL, 0);

	if (at == (void *)-1) {
		perror("shm");
		exit(1);
	}
	memset(at, 'm', touched);
	if (mode == 0600)
		shmctl(id, SHM_LOCK, NULL);
	if (key == IPC_PRIVATE)
		shmctl(id, IPC_RMID, NULL); /* lives as long as it is attached */
	return at;
}

static void queue(key_t key, int messages)
{
	struct { long type; char text[100]; } message = { 1, "LAB-MESSAGE" };
	int id = msgget(key, IPC_CREAT | 0640);

	while (messages-- > 0)
		if (msgsnd(id, &message, sizeof message.text, 0))
			perror("msgsnd");
}

int main(void)
{
	segment(0x1ab00001, 90000, 0666, 5 * 4096);
	segment(IPC_PRIVATE, 4096, 0644, 1);
	segment(0x1ab00002, 8192, 0600, 8192);
	shmdt(segment(0x1ab00003, 12288, 0640, 0));
	semget(0x1ab00004, 5, IPC_CREAT | 0600);
	semget(IPC_PRIVATE, 1, 0666);
	queue(0x1ab00005, 3);
	queue(0x1ab00006, 0);
	if (fork() == 0) {
		prctl(PR_SET_NAME, "labipc-other");
		if (unshare(CLONE_NEWIPC))
			perror("unshare");
		queue(0x1ab00007, 2);
		printf("other %d\n", getpid());
		fflush(stdout);
		pause();
	}
	pause();
	return 0;
}
