// Drives cdt-gdb-adapter (the Debug Adapter Protocol over gdb/MI) as an editor
// would: attach to HOST PORT, look at everything, try to continue, leave.
// Prints one JSON object with what the editor was shown.
//
//   node dap.js ADAPTER.js GDB HOST PORT GLOBAL SECONDS
//
// SECONDS is how long it waits for what must come.

'use strict';
const { spawn } = require('child_process');

const [adapterPath, gdb, host, port, global_, seconds] = process.argv.slice(2);
const adapter = spawn(process.execPath, [adapterPath], { stdio: ['pipe', 'pipe', 'inherit'] });
const waiting = new Map();
const events = [];
const watchers = [];
let seq = 0;
let buffer = Buffer.alloc(0);

adapter.stdout.on('data', (data) => {
  buffer = Buffer.concat([buffer, data]);
  for (;;) {
    const head = buffer.indexOf('\r\n\r\n');
    if (head < 0) return;
    const length = Number(/Content-Length: (\d+)/.exec(buffer.subarray(0, head).toString())[1]);
    if (buffer.length < head + 4 + length) return;
    const message = JSON.parse(buffer.subarray(head + 4, head + 4 + length).toString());
    buffer = buffer.subarray(head + 4 + length);
    if (message.type === 'response') {
      const { resolve, reject } = waiting.get(message.request_seq);
      waiting.delete(message.request_seq);
      if (message.success) resolve(message.body || {});
      else reject(new Error(`${message.command}: ${message.message}`));
    } else if (message.type === 'event') {
      events.push(message);
      watchers.filter((w) => w.name === message.event).forEach((w) => w.resolve(message.body));
    }
  }
});

function request(command, args) {
  const number = ++seq;
  const text = JSON.stringify({ seq: number, type: 'request', command, arguments: args });
  return new Promise((resolve, reject) => {
    waiting.set(number, { resolve, reject });
    adapter.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
  });
}

const event = (name) => new Promise((resolve) => watchers.push({ name, resolve }));
const consoleText = () => events.filter((e) => e.event === 'output').map((e) => e.body.output).join('');

async function main() {
  const seen = {};
  await request('initialize', { adapterID: 'gdbtarget', linesStartAt1: true, pathFormat: 'path' });
  const initialized = event('initialized');
  const stopped = event('stopped');
  const attached = request('attach', {
    gdb,
    gdbArguments: ['-nx', '-iex', `set remotetimeout ${seconds}`],
    target: { type: 'remote', host, port },
    initCommands: [],
  });
  await Promise.race([initialized, attached]);
  await attached;
  await request('configurationDone', {});
  // The adapter continues a remote target at this point; it must come back as
  // stopped, not run away.
  const stop = await stopped;
  seen.stopped = stop.reason;
  seen.threads = (await request('threads')).threads;
  // The thread that died, as an editor shows it: another may have been stopped
  // in user mode, and its stack filtered out of the dump.
  const first = seen.threads.find((t) => t.id === stop.threadId) || seen.threads[0];
  seen.stack = (await request('stackTrace', { threadId: first.id, startFrame: 0, levels: 20 })).stackFrames;
  seen.scopes = (await request('scopes', { frameId: seen.stack[0].id })).scopes;
  seen.variables = {};
  for (const scope of seen.scopes) {
    const { variables } = await request('variables', { variablesReference: scope.variablesReference });
    seen.variables[scope.name] = variables.map((v) => [v.name, v.value]);
  }
  const evaluate = (expression, context) =>
    request('evaluate', { expression, frameId: seen.stack[0].id, context }).then((b) => b.result, (e) => String(e));
  seen.evaluated = await evaluate(global_, 'watch');
  seen.pc = await evaluate('$pc', 'watch');
  const sp = (await evaluate('(unsigned long)$sp', 'watch')).split(' ')[0];
  seen.memory = Buffer.from(
    (await request('readMemory', { memoryReference: '0x' + BigInt(sp).toString(16), count: 64 })).data, 'base64').length;
  await evaluate('>monitor sys', 'repl');
  seen.repl = consoleText();
  const again = event('stopped');
  const mark = events.length;
  // Either it is refused, or it is a stop again.
  await request('continue', { threadId: first.id }).then(() => again, (e) => { seen.continueError = String(e); });
  seen.afterContinue = events.slice(mark).map((e) => e.event + ' ' + (e.body.output || e.body.reason || ''));
  // A stop makes the old frames void.
  seen.stack = (await request('stackTrace', { threadId: first.id, startFrame: 0, levels: 20 })).stackFrames;
  seen.evaluatedAfter = await evaluate(global_, 'watch');
  await request('disconnect', {}).catch(() => {});
  return seen;
}

const late = setTimeout(() => {
  console.error('the adapter did not finish; last events:', JSON.stringify(events.slice(-5)));
  adapter.kill();
  process.exit(1);
}, 1000 * seconds);
main().then((seen) => {
  console.log(JSON.stringify(seen));
  clearTimeout(late);
  adapter.kill();
  process.exit(0);
}, (error) => {
  console.error(error.stack || error);
  adapter.kill();
  process.exit(1);
});
