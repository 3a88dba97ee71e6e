// What a web page can send to a port of this machine, by the fetch of a real engine. Nothing is to be obeyed.
// Arguments: the port, and the id that its commands would schedule.
const [port, id] = process.argv.slice(2);
const base = `http://127.0.0.1:${port}`;
const line = `{"op":"schedule","id":"${id}","url":"http://127.0.0.1:9/","delay":"1h"}\n`;
const form = new FormData();
form.append("a\n" + line, "b");
form.append("file", new Blob(["\n" + line]), "{\n" + line);

const targets = ["/", "/?{", "/{", `/?${line.trim()}`, `/?a=1&b={`, "/#{"];
const bodies = [
  line,
  "\n" + line,
  new Blob(["\n\n", line], { type: "text/plain" }),
  new Blob([line], { type: "" }),
  new URLSearchParams({ [line]: "\n" + line }),
  new TextEncoder().encode("\r\n" + line),
  form,
];
const requests = [];
for (const target of targets) {
  for (const body of bodies) {
    requests.push([target, { method: "POST", mode: "no-cors", body }]);
  }
  requests.push([target, { method: "GET", mode: "no-cors", headers: { accept: "{", "accept-language": line.trim() } }]);
  for (const method of ["PUT", "PATCH", "DELETE", "OPTIONS", "X-COMMAND"]) {
    requests.push([target, { method, body: line, headers: { "x-{": "{", "content-type": "application/json" } }]);
  }
}
const stream = () =>
  new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode("\n" + line));
      controller.close();
    },
  });
requests.push(["/?{", { method: "POST", body: stream(), duplex: "half" }]);

let answered = 0;
for (const [target, request] of requests) {
  try {
    await fetch(base + target, request);
    answered += 1;
  } catch (error) {
    // What the daemon says is no HTTP.
  }
}
console.log(JSON.stringify({ sent: requests.length, answered }));
