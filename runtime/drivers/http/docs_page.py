"""The text of the page at `/docs`: it reads `openapi.json` and is complete in itself."""

DOCS = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Workflow</title>
<link rel="icon" href="favicon.svg">
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0b57d0; --bad: #c5221f; --good: #188038; }
  * { box-sizing: border-box; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1.5rem; }
  h1 { margin: 0; font-size: 1.6rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
  header { display: flex; gap: 1rem; align-items: baseline; border-bottom: 1px solid var(--line);
           padding-bottom: 1rem; }
  .state { font-size: .85rem; padding: .1rem .6rem; border-radius: 1rem; border: 1px solid currentColor; }
  .good { color: var(--good); } .bad { color: var(--bad); }
  .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
  pre, textarea, input { font: 13px/1.45 ui-monospace, monospace; }
  pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; margin: 0;
        overflow: auto; max-height: 24rem; white-space: pre-wrap; overflow-wrap: anywhere; }
  textarea { width: 100%; min-height: 11rem; padding: .75rem; border: 1px solid var(--line); border-radius: 6px; }
  input, select { padding: .35rem .5rem; border: 1px solid var(--line); border-radius: 6px; width: 9rem; }
  label { font-size: .85rem; } label input, label textarea { display: block; margin-top: .2rem; }
  .row { display: flex; gap: 1rem; align-items: end; flex-wrap: wrap; margin: .75rem 0; }
  button { font: inherit; padding: .4rem 1rem; border-radius: 6px; border: 1px solid var(--accent); cursor: pointer;
           background: var(--accent); color: #fff; }
  button.plain { background: none; color: inherit; border-color: var(--line); }
  button:disabled { opacity: .5; cursor: wait; }
  select { font: inherit; width: 100%; } [hidden] { display: none !important; }
  table { border-collapse: collapse; width: 100%; } td { border-top: 1px solid var(--line); padding: .35rem .5rem; }
  code { font: 13px ui-monospace, monospace; } .muted { opacity: .7; font-size: .85rem; }
</style>
<header><h1 id="title">Workflow</h1><span id="state" class="state" role="status"></span>
  <a href="openapi.json">openapi.json</a></header>

<section id="algorithms" hidden>
<h2>Algorithms</h2>
<table id="served"></table>
</section>

<h2>Send a request</h2>
<div class="columns">
  <form>
    <label id="operation_label" hidden>To<select id="operation"></select></label>
    <label>Inputs (JSON)<textarea id="inputs" spellcheck="false"></textarea></label>
    <div class="row">
      <label class="workflow">State id<input id="state_id"></label>
      <label>Timeout<input id="timeout" placeholder="30s"></label>
      <label id="token_label">Token<input id="token" type="password" autocomplete="off"></label>
    </div>
    <div class="row"><button id="send" type="button">Predict</button>
      <button id="stream" type="button" class="plain workflow">Stream outputs</button>
      <button id="task" type="button" class="plain workflow">As a task</button></div>
  </form>
  <div>
    <div class="muted">Answer <span id="status"></span></div>
    <pre id="answer" aria-live="polite"></pre>
  </div>
</div>
<h2>The same with curl</h2>
<pre id="curl"></pre>

<h2>Schemas</h2>
<div class="columns">
  <div><div class="muted">Inputs</div><pre id="schema_inputs"></pre></div>
  <div><div class="muted">Outputs</div><pre id="schema_outputs"></pre></div>
</div>

<h2>Routes</h2>
<table id="routes"></table>

<script>
"use strict";
const at = id => document.getElementById(id);
const shown = value => JSON.stringify(value, null, 2);
const PREDICT = "predict";
let document_;

function example(schema, root, depth = 0) {
  if (!schema || depth > 6) return {};
  if (schema.$ref) {
    return example(schema.$ref.slice(2).split("/").reduce((inner, key) => inner?.[key], root), root, depth + 1);
  }
  if (schema.examples?.length) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[0];
  const member = schema.anyOf?.[0] ?? schema.oneOf?.[0] ?? schema.allOf?.[0];
  if (member) return example(member, root, depth + 1);
  const kind = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (kind === "array") return [example(schema.items, root, depth + 1)];
  if (kind === "object" || schema.properties) {
    return Object.fromEntries(Object.entries(schema.properties ?? {})
      .map(([name, inner]) => [name, example(inner, root, depth + 1)]));
  }
  return { string: "text", integer: 1, number: 1.5, boolean: true, null: null }[kind] ?? {};
}

function request(accept) {
  const headers = { "Content-Type": "application/json" };
  if (accept) headers.Accept = accept;
  if (at("state_id").value && path() === PREDICT) headers["Krt-State-Id"] = at("state_id").value;
  if (at("timeout").value) headers["Krt-Timeout"] = at("timeout").value;
  if (at("token").value) headers.Authorization = "Bearer " + at("token").value;
  return { method: "POST", headers, body: at("inputs").value };
}

function path() { return at("operation").value || PREDICT; }

function quoted(text) { return "'" + text.replaceAll("'", "'\\''") + "'"; }

function showCurl() {
  const { headers, body } = request();
  if (headers.Authorization) headers.Authorization = "Bearer $TOKEN";
  const lines = Object.entries(headers).map(([name, value]) =>
    value.includes("$TOKEN") ? `  -H "${name}: ${value}"` : `  -H ${quoted(`${name}: ${value}`)}`);
  at("curl").textContent =
    [`curl ${new URL(path(), location.href)}`, ...lines, `  -d ${quoted(body)}`].join(" \\\n");
}

function say(response, text) {
  const kind = response.headers.get("Content-Type") ?? "";
  at("status").textContent = `${response.status} ${response.statusText}`;
  at("status").className = response.ok ? "good" : "bad";
  try { at("answer").textContent = kind.includes("json") ? shown(JSON.parse(text)) : text; }
  catch { at("answer").textContent = text; }
}

async function send() { const response = await fetch(path(), request()); say(response, await response.text()); }

async function stream() {
  const response = await fetch("predict", request("text/event-stream"));
  if (!response.ok) return say(response, await response.text());
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "", part; !(part = await reader.read()).done; ) say(response, text += part.value);
}

async function task() {
  let response = await fetch("tasks", request());
  say(response, await response.clone().text());
  if (response.status !== 202) return;
  const { task_id } = await response.json();
  const { Authorization } = request().headers;
  while (response.status === 202) {
    response = await fetch(`tasks/${task_id}?wait=10s`, { headers: Authorization ? { Authorization } : {} });
    say(response, await response.text());
  }
}

async function run(act) {
  const buttons = document.querySelectorAll("button");
  buttons.forEach(button => button.disabled = true);
  at("status").textContent = "…"; at("answer").textContent = "";
  try { await act(); } catch (error) { at("status").textContent = ""; at("answer").textContent = String(error); }
  buttons.forEach(button => button.disabled = false);
}

function resolved(schema) {
  return schema?.$ref ? schema.$ref.slice(2).split("/").reduce((inner, key) => inner?.[key], document_) : schema;
}

function choose() {
  const own = path() === PREDICT;
  const { Inputs, Outputs } = document_.components.schemas;
  const operation = document_.paths["/" + path()].post;
  const content = part => part.content["application/json"].schema;
  const inputs = own ? Inputs : resolved(content(operation.requestBody));
  const outputs = own ? Outputs : resolved(content(operation.responses["200"]).properties.result);
  document.querySelectorAll(".workflow").forEach(element => element.hidden = !own);
  at("send").textContent = own ? "Predict" : "Run";
  at("inputs").value = shown(example(inputs, document_));
  at("schema_inputs").textContent = Object.keys(inputs).length ? shown(inputs) : "any value";
  at("schema_outputs").textContent = Object.keys(outputs).length ? shown(outputs) : "any value";
  at("status").textContent = at("answer").textContent = "";
  showCurl();
}

function row(table, name, text) {
  const cells = at(table).insertRow();
  cells.insertCell().appendChild(document.createElement("code")).append(name);
  cells.insertCell().textContent = text ?? "";
}

function offer(algorithms) {
  if (!algorithms.length) return;
  at("operation").add(new Option("the workflow", PREDICT));
  for (const [route, operation] of algorithms) {
    const link = document.createElement("a");
    link.href = "#" + operation.operationId;
    link.textContent = route.slice("/run/".length);
    link.onclick = () => { at("operation").value = route.slice(1); choose(); };
    row("served", link, operation.summary);
    at("operation").add(new Option(link.textContent, route.slice(1)));
  }
  at("algorithms").hidden = at("operation_label").hidden = false;
  at("operation").onchange = choose;
}

async function start() {
  document_ = await (await fetch("openapi.json")).json();
  document.title = at("title").textContent = document_.info.title;
  at("token_label").hidden = !document_.security;
  const paths = Object.entries(document_.paths);
  offer(paths.filter(([, methods]) => methods.post?.tags?.includes("algorithms"))
    .map(([route, methods]) => [route, methods.post]));
  choose();
  for (const [path, methods] of paths) {
    for (const [method, operation] of Object.entries(methods)) {
      row("routes", `${method.toUpperCase()} ${path}`, operation.summary);
    }
  }
  const ready = await fetch("ready");
  at("state").textContent = ready.ok ? "ready" : (await ready.json()).detail;
  at("state").className = "state " + (ready.ok ? "good" : "bad");
}

at("send").onclick = () => run(send);
at("stream").onclick = () => run(stream);
at("task").onclick = () => run(task);
document.querySelectorAll("input, textarea").forEach(field => field.oninput = showCurl);
start();
</script>
</html>
""".encode()
