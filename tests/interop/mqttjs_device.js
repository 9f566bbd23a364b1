// A device on MQTT.js: every QoS there and back, retained, will, session, call and push. Prints what it saw as JSON.
"use strict";
const [modules, url, ca, version, name] = process.argv.slice(2);
const mqtt = require(modules + "/mqtt");
const fs = require("fs");

const options = (clientId, more) => ({
  clientId, protocolVersion: Number(version), username: "anybody", password: "alice-token", reconnectPeriod: 0,
  connectTimeout: 15000, clean: true, ca: ca ? fs.readFileSync(ca) : undefined, ALPNProtocols: undefined, ...more,
});

async function open(clientId, more = {}) {
  const client = mqtt.connect(url, options(clientId, more));
  const inbox = [], waiting = [];
  client.on("message", (topic, payload, packet) => {
    const properties = packet.properties || {};
    const message = { topic, qos: packet.qos, retain: packet.retain, size: payload.length, text: payload.toString().slice(0, 200),
      properties: { ...properties, correlationData: properties.correlationData && properties.correlationData.toString("hex") } };
    if (waiting.length) waiting.shift()(message); else inbox.push(message);
  });
  client.next = () => inbox.length ? Promise.resolve(inbox.shift()) : new Promise(resolve => waiting.push(resolve));
  const connack = await new Promise((resolve, reject) => {
    client.once("connect", resolve);
    client.once("error", reject);
  });
  return [client, connack];
}

async function main() {
  const seen = { every: [] };
  const five = version === "5";
  const [client] = await open(name);
  const granted = await client.subscribeAsync({ [`${name}/0`]: { qos: 0 }, [`${name}/1`]: { qos: 1 }, [`${name}/2`]: { qos: 2 } });
  seen.granted = granted.map(one => one.qos);
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(`${name}/${qos}`, "温度", { qos });
    const message = await client.next();
    seen.every.push([message.topic, message.qos, message.text]);
  }
  await client.publishAsync(`${name}/2`, Buffer.alloc(100000, "x"), { qos: 2 });
  seen.large = (await client.next()).size;

  const [dying] = await open(name + "-dying", { will: { topic: `${name}/1`, payload: "别了", qos: 1, retain: false } });
  dying.stream.destroy();
  seen.will = (await client.next()).text;

  const session = five ? { clean: false, properties: { sessionExpiryInterval: 300 } } : { clean: false };
  let [away, first] = await open(name + "-away", session);
  await away.subscribeAsync(`${name}/away`, { qos: 2 });
  await away.endAsync();
  for (const qos of [1, 2]) await client.publishAsync(`${name}/away`, String(qos), { qos });
  let second;
  [away, second] = await open(name + "-away", session);
  seen.present = [first.sessionPresent, second.sessionPresent];
  seen.away = [(await away.next()).text, (await away.next()).text].sort();
  await away.endAsync();

  const id = require("crypto").randomUUID();
  await client.publishAsync("$call/payments.pay/" + id, "{}", { qos: 1 });
  const answer = await client.next();
  seen.call = [answer.topic === "$reply/" + id, JSON.parse(answer.text).path];
  if (five) {
    const properties = { contentType: "text/plain", userProperties: { "单位": "℃" }, responseTopic: "answers",
      correlationData: Buffer.from("00ff", "hex"), payloadFormatIndicator: true, messageExpiryInterval: 60 };
    await client.publishAsync(`${name}/1`, "21.5", { qos: 1, properties });
    const { contentType, userProperties, responseTopic, correlationData } = (await client.next()).properties;
    seen.properties = { contentType, unit: userProperties["单位"], responseTopic, correlationData };
    try {
      await client.publishAsync("forbidden/x", "y", { qos: 1 });
    } catch (error) {
      seen.refused = error.code;
    }
  }
  console.log(JSON.stringify(seen));
  const push = await client.next();
  await client.endAsync();
  console.log(JSON.stringify([push.topic, push.qos, push.text]));
}

main().catch(error => { console.error(error); process.exit(1); });
