// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * labcrash: a module whose only purpose is to give a kernel dump known contents.
 * Commands are written to /proc/labcrash:
 *   oops       NULL dereference in a nested function, in the writer's context
 *   irqoops    the same from a hard interrupt (hrtimer callback)
 *   softoops   the same from a timer (softirq)
 *   wqoops     the same from a workqueue
 *   bug        BUG() (invalid opcode) in a nested function
 *   dstate     sleep in TASK_UNINTERRUPTIBLE for ever, in the writer's context
 *   spin       spin in the kernel for ever with preemption possible
 *   irqspin    spin with interrupts off (a dead CPU)
 *   smash      run over the end of a kmalloc object with UTF-16 text, then allocate:
 *              the free object behind it had its link there
 *   smashoops  the same without the allocation; the machine dies as of oops
 *   listdel    remove a list entry twice
 *   uaf        call through an object that was freed and has other contents by now
 *   overflow   recurse until the kernel stack's guard page is hit
 *   overrun    write over the end of a slab object, and into a freed one; then as oops
 *   lockup     spin with preemption off and interrupts on (a soft lockup)
 *   abba       two threads that take two mutexes in opposite order, and one that waits
 *              for a rw_semaphore which the first holds; the writer goes on
 */
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <linux/version.h>

struct lab_record {
	u64 magic;
	char name[24];
	struct list_head list;
	struct lab_record *peer;
};

/* data with known contents, reachable by symbol name */
u64 labcrash_magic = 0x1abc0de51abc0de5ULL;
char labcrash_banner[] = "LAB-MODULE-DATA-MAGIC";
static LIST_HEAD(labcrash_list);
static struct lab_record labcrash_records[3];
DEFINE_PER_CPU(u64, labcrash_percpu) = 0;
static struct task_struct *labcrash_thread;
static struct hrtimer labcrash_hrtimer;
static struct timer_list labcrash_timer;
static volatile int labcrash_sink;
struct lab_record *labcrash_null;

static noinline __attribute__((noipa)) int labcrash_level3(int depth, struct lab_record *r)
{
	/* faults: r is NULL */
	return r->name[3] + depth;
}

static noinline __attribute__((noipa)) int labcrash_level2(int depth, struct lab_record *r)
{
	int v = labcrash_level3(depth + 1, r);

	labcrash_sink = v;
	return v + 1;
}

static noinline __attribute__((noipa)) int labcrash_level1(int depth)
{
	int v = labcrash_level2(depth + 1, READ_ONCE(labcrash_null));

	labcrash_sink = v;
	return v + 1;
}

static noinline __attribute__((noipa)) void labcrash_do_bug(int x)
{
	if (x > 0)
		BUG();
	labcrash_sink = x;
}

static noinline __attribute__((noipa)) void labcrash_sleep_d(void)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
	}
}

static noinline __attribute__((noipa)) void labcrash_spin(void)
{
	for (;;) {
		labcrash_sink++;
		cond_resched();
	}
}

static noinline __attribute__((noipa)) void labcrash_irqspin(void)
{
	unsigned long flags;

	local_irq_save(flags);
	for (;;)
		cpu_relax();
}

static enum hrtimer_restart labcrash_hrtimer_fn(struct hrtimer *t)
{
	labcrash_sink = labcrash_level1(100);
	return HRTIMER_NORESTART;
}

static void labcrash_timer_fn(struct timer_list *t)
{
	labcrash_sink = labcrash_level1(200);
}

static void labcrash_work_fn(struct work_struct *w)
{
	labcrash_sink = labcrash_level1(300);
}
static DECLARE_WORK(labcrash_work, labcrash_work_fn);

static noinline __attribute__((noipa)) void labcrash_kthread_wait(void)
{
	while (!kthread_should_stop())
		schedule_timeout_interruptible(3600 * HZ);
}

static int labcrash_kthread(void *arg)
{
	labcrash_kthread_wait();
	return 0;
}

/* what a driver once had in its buffer, in UTF-16: longer than the object */
static const char labcrash_text[] = "Virtual Disk of the Laboratory";
#define SMASH_SIZE 64
#define SMASH_OBJECTS 256

static noinline __attribute__((noipa)) void labcrash_name(u16 *to)
{
	size_t i;

	/* overruns: the object has room for 32 letters */
	for (i = 0; i < SMASH_SIZE; i++)
		to[i] = labcrash_text[i % (sizeof(labcrash_text) - 1)];
}

static noinline __attribute__((noipa)) void labcrash_smash(bool allocate)
{
	static void *objects[SMASH_OBJECTS];
	int i, j;

	/* on one CPU, so that what is freed is allocated next */
	preempt_disable();
	for (i = 0; i < SMASH_OBJECTS; i++)
		objects[i] = kmalloc(SMASH_SIZE, GFP_ATOMIC);
	for (i = SMASH_OBJECTS - 1; i >= 0; i--) {
		for (j = SMASH_OBJECTS - 1; j > SMASH_OBJECTS - 32; j--) {
			if (!objects[i] || objects[j] != objects[i] + SMASH_SIZE)
				continue;
			/* one that stays on the list, and one that is taken off it: the head is smashed, too */
			kfree(objects[j]);
			labcrash_name(objects[i]);
			if (!allocate)
				labcrash_sink = labcrash_level1(1);
			for (i = 0; i < 8; i++)
				objects[i] = kmalloc(SMASH_SIZE, GFP_ATOMIC);
			labcrash_sink = objects[7] != NULL;
			preempt_enable();
			return;
		}
	}
	preempt_enable();
}

/* over the end of one object, and into one that was freed; the machine dies of something else */
static noinline __attribute__((noipa)) void labcrash_overrun(void)
{
	u16 *name = kmalloc(SMASH_SIZE, GFP_KERNEL);
	char *gone = kmalloc(SMASH_SIZE, GFP_KERNEL);
	size_t i;

	if (!name || !gone)
		return;
	for (i = 0; i < SMASH_SIZE / sizeof(*name) + 4; i++)
		name[i] = labcrash_text[i % (sizeof(labcrash_text) - 1)];
	kfree(gone);
	memset(gone + SMASH_SIZE - 4, 'U', 4);
	labcrash_sink = labcrash_level1(1);
}

static noinline __attribute__((noipa)) void labcrash_listdel(void)
{
	list_del(&labcrash_records[1].list);
	list_del(&labcrash_records[1].list);
}

struct lab_ops {
	void (*done)(struct lab_ops *ops);
	u64 pad[7];
};

static noinline __attribute__((noipa)) void labcrash_complete(struct lab_ops *ops)
{
	ops->done(ops);
	labcrash_sink++;
}

static noinline __attribute__((noipa)) void labcrash_uaf(void)
{
	struct lab_ops *ops = kzalloc(sizeof(*ops), GFP_KERNEL);
	char *next;

	preempt_disable();
	kfree(ops);
	/* the freed object comes back to another owner, who writes text to it */
	next = kmalloc(sizeof(*ops), GFP_ATOMIC);
	memset(next, 'k', sizeof(*ops));
	labcrash_complete(ops);
	preempt_enable();
}

static noinline __attribute__((noipa)) int labcrash_recurse(int depth)
{
	volatile char room[256];

	room[depth & 255] = depth;
	return labcrash_recurse(depth + 1) + room[(depth + 1) & 255];
}

static noinline __attribute__((noipa)) void labcrash_lockup(void)
{
	preempt_disable();
	for (;;)
		cpu_relax();
}

static DEFINE_MUTEX(labcrash_a);
static DEFINE_MUTEX(labcrash_b);
static DECLARE_RWSEM(labcrash_rwsem);

static noinline __attribute__((noipa)) int labcrash_ab(void *arg)
{
	down_write(&labcrash_rwsem);
	mutex_lock(&labcrash_a);
	msleep(100);
	mutex_lock(&labcrash_b);
	return 0;
}

static noinline __attribute__((noipa)) int labcrash_ba(void *arg)
{
	mutex_lock(&labcrash_b);
	msleep(100);
	mutex_lock(&labcrash_a);
	return 0;
}

static noinline __attribute__((noipa)) int labcrash_reader(void *arg)
{
	msleep(50);
	down_read(&labcrash_rwsem);
	return 0;
}

static void labcrash_deadlock(void)
{
	kthread_run(labcrash_ab, NULL, "lab-ab");
	kthread_run(labcrash_ba, NULL, "lab-ba");
	kthread_run(labcrash_reader, NULL, "lab-reader");
	msleep(300);
}

static ssize_t labcrash_write(struct file *f, const char __user *ub, size_t n, loff_t *off)
{
	char buf[32];
	size_t len = min(n, sizeof(buf) - 1);

	if (copy_from_user(buf, ub, len))
		return -EFAULT;
	buf[len] = 0;
	strim(buf);
	if (!strcmp(buf, "oops"))
		labcrash_sink = labcrash_level1(1);
	else if (!strcmp(buf, "irqoops"))
		hrtimer_start(&labcrash_hrtimer, ms_to_ktime(20), HRTIMER_MODE_REL_HARD);
	else if (!strcmp(buf, "softoops"))
		mod_timer(&labcrash_timer, jiffies + 2);
	else if (!strcmp(buf, "wqoops"))
		schedule_work(&labcrash_work);
	else if (!strcmp(buf, "bug"))
		labcrash_do_bug(len);
	else if (!strcmp(buf, "dstate"))
		labcrash_sleep_d();
	else if (!strcmp(buf, "spin"))
		labcrash_spin();
	else if (!strcmp(buf, "irqspin"))
		labcrash_irqspin();
	else if (!strcmp(buf, "smash"))
		labcrash_smash(true);
	else if (!strcmp(buf, "smashoops"))
		labcrash_smash(false);
	else if (!strcmp(buf, "overrun"))
		labcrash_overrun();
	else if (!strcmp(buf, "listdel"))
		labcrash_listdel();
	else if (!strcmp(buf, "uaf"))
		labcrash_uaf();
	else if (!strcmp(buf, "overflow"))
		labcrash_sink = labcrash_recurse(0);
	else if (!strcmp(buf, "lockup"))
		labcrash_lockup();
	else if (!strcmp(buf, "abba"))
		labcrash_deadlock();
	else
		return -EINVAL;
	return n;
}

static const struct proc_ops labcrash_ops = {
	.proc_write = labcrash_write,
};

static int __init labcrash_init(void)
{
	int i;

	for (i = 0; i < 3; i++) {
		labcrash_records[i].magic = labcrash_magic + i;
		snprintf(labcrash_records[i].name, sizeof(labcrash_records[i].name), "lab-record-%d", i);
		labcrash_records[i].peer = &labcrash_records[(i + 1) % 3];
		list_add_tail(&labcrash_records[i].list, &labcrash_list);
	}
	for_each_possible_cpu(i)
		*per_cpu_ptr(&labcrash_percpu, i) = 0xcb000000ULL + i;
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
	hrtimer_init(&labcrash_hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	labcrash_hrtimer.function = labcrash_hrtimer_fn;
#else
	hrtimer_setup(&labcrash_hrtimer, labcrash_hrtimer_fn, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
#endif
	timer_setup(&labcrash_timer, labcrash_timer_fn, 0);
	labcrash_thread = kthread_run(labcrash_kthread, NULL, "labkthread");
	if (IS_ERR(labcrash_thread))
		return PTR_ERR(labcrash_thread);
	if (!proc_create("labcrash", 0200, NULL, &labcrash_ops)) {
		kthread_stop(labcrash_thread);
		return -ENOMEM;
	}
	return 0;
}

static void __exit labcrash_exit(void)
{
	remove_proc_entry("labcrash", NULL);
	kthread_stop(labcrash_thread);
}

module_init(labcrash_init);
module_exit(labcrash_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("known contents and known crashes for dump tests");
