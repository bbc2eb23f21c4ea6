// BullMQ's worker and client.
const { Queue, Worker } = require('bullmq');
const IORedis = require('ioredis');

const [role, url, ...numbers] = process.argv.slice(2);
const [count, concurrency, keys, held, delayMs, everyMs, givenS] = numbers.map(Number);
const BULK = 1000;
const connect = () => new IORedis(url, { maxRetriesPerRequest: null });

async function work() {
  const teller = connect();
  const lateUs = [];
  const worker = new Worker(
    'bench',
    async (job) => {
      lateUs.push(Math.round((performance.timeOrigin + performance.now() - job.data.dueMs) * 1000));
      if (lateUs.length === count) await teller.rpush('bench:done', JSON.stringify(lateUs));
    },
    { connection: connect(), concurrency },
  );
  await worker.waitUntilReady();
  await teller.rpush('bench:ready', '1');
}

async function send() {
  const listener = connect();
  const queue = new Queue('bench', { connection: connect(), defaultJobOptions: { removeOnComplete: true } });
  await queue.waitUntilReady();
  if (keys) await queue.setGlobalConcurrency(held); // a limit by key is for those who pay
  const began = performance.now();
  const used = process.cpuUsage();
  const baseMs = Date.now();
  for (let first = 0; first < count; first += BULK) {
    const nowMs = everyMs ? baseMs : Date.now();
    const jobs = [];
    for (let number = first; number < Math.min(first + BULK, count); number++) {
      const dueMs = nowMs + delayMs + Math.round(number * everyMs);
      jobs.push({ name: 'job', data: { dueMs }, opts: { delay: Math.max(0, dueMs - Date.now()) } });
    }
    await queue.addBulk(jobs);
  }
  const answer = await listener.blpop('bench:done', givenS);
  if (!answer) throw new Error(`not all had run after ${givenS} s`);
  const { user, system } = process.cpuUsage(used);
  const seconds = (performance.now() - began) / 1000;
  const took = JSON.stringify({ seconds, cpu_s: (user + system) / 1e6, late_us: JSON.parse(answer[1]) });
  process.stdout.write(took, () => process.exit(0)); // its connections would keep it alive
}

(role === 'worker' ? work() : send()).catch((error) => {
  console.error(error);
  process.exit(1);
});
