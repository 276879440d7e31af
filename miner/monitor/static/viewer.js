// One result from all sides, with Spark on three.js, framed as validators frame it.

import * as THREE from "three";
import { OrbitControls } from "/static/vendor/three-0.180.0/OrbitControls.js";
import { SparkRenderer, SplatMesh } from "/static/vendor/spark-2.2.0/spark.module.min.js";
import { el, number, utc } from "/static/dom.js";

// The validator's view: degrees, and the distance at which the box's longest side is 1.5.
const [FIELD_OF_VIEW, DISTANCE, ELEVATION, SIDE] = [49.1, 2.5, 15, 1.5];
const BACKDROPS = [0xffffff, 0x17181b, 0x8a8a8a];
const place = (id) => document.getElementById(id);
const key = new URLSearchParams(location.search).get("key") ?? "";

const canvas = place("canvas");
const renderer = new THREE.WebGLRenderer({ canvas, antialias: false });
const scene = new THREE.Scene();
const camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 100);
const controls = new OrbitControls(camera, canvas);
controls.enableDamping = true;
controls.autoRotate = !matchMedia("(prefers-reduced-motion: reduce)").matches;
// A picture is drawn when something has changed: the camera, the backdrop, or the order in which Spark sorts.
let changed = true;
const redraw = () => (changed = true);
controls.addEventListener("change", redraw);
scene.add(new SparkRenderer({ renderer, onDirty: redraw }));

function front() {
  const elevation = (ELEVATION * Math.PI) / 180;
  camera.position.set(0, DISTANCE * Math.sin(elevation), DISTANCE * Math.cos(elevation));
  controls.target.set(0, 0, 0);
  controls.update();
}

function fit() {
  renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
  renderer.setSize(innerWidth, innerHeight, false);
  camera.aspect = innerWidth / innerHeight;
  // The object stands in the middle of what the panel leaves free.
  const covered = innerWidth > 640 ? place("facts").getBoundingClientRect().right : 0;
  camera.setViewOffset(innerWidth, innerHeight, -covered / 2, 0, innerWidth, innerHeight);
  camera.updateProjectionMatrix();
  redraw();
}

let backdrop = matchMedia("(prefers-color-scheme: dark)").matches ? 1 : 0;
function paint() {
  scene.background = new THREE.Color(BACKDROPS[backdrop]);
  redraw();
}

function showTurning() {
  place("turn").setAttribute("aria-pressed", String(controls.autoRotate));
}

place("turn").addEventListener("click", () => {
  controls.autoRotate = !controls.autoRotate;
  showTurning();
});
place("front").addEventListener("click", () => {
  controls.autoRotate = false;
  showTurning();
  front();
});
place("backdrop").addEventListener("click", () => {
  backdrop = (backdrop + 1) % BACKDROPS.length;
  paint();
});
addEventListener("resize", fit);

async function download() {
  const reply = await fetch(`/results/${key}.ply`);
  if (!reply.ok) throw new Error((await reply.json().catch(() => null))?.error ?? `HTTP ${reply.status}`);
  const total = Number(reply.headers.get("Content-Length"));
  const data = new Uint8Array(total);
  let got = 0;
  for (const reader = reply.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return data;
    data.set(value, got);
    got += value.length;
    place("progress").textContent = `Loading… ${Math.round((100 * got) / total)} %`;
  }
}

async function showFacts() {
  const { results } = await (await fetch("/results.json")).json();
  const result = results.find((one) => one.key === key);
  if (!result) return;
  place("title").textContent = result.prompt ?? `Task ${result.task_id}`;
  if (result.prompt_picture) {
    place("prompt").src = `/pictures/${key}.prompt.webp`;
    place("prompt").hidden = false;
  }
  const facts = {
    answer: result.outcome === "accepted" && result.score !== null ? `accepted, ${result.score.toFixed(2)}` : (result.outcome?.replaceAll("_", " ") ?? "none yet"),
    validator: result.uid === null ? "–" : `uid ${result.uid}`,
    phase: result.phase,
    seed: result.seed,
    gaussians: number(result.gaussians),
    generated: `in ${number(result.seconds, 1)} s`,
    sent: `${number(result.size)} bytes ${result.data_format}`,
    made: `${utc(result.made_at, true)} UTC`,
  };
  place("numbers").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

async function show() {
  if (!/^[0-9]{1,19}$/.test(key)) throw new Error("the address names no result");
  // As most viewers of such files expect it: the upper side at -y.
  place("file").href = `/results/${key}.ply?up=-y`;
  showFacts().catch(() => {});
  const mesh = new SplatMesh({ fileBytes: await download(), fileType: "ply" });
  await mesh.initialized;
  const box = mesh.getBoundingBox();
  const size = box.getSize(new THREE.Vector3());
  const scale = SIDE / Math.max(size.x, size.y, size.z, 1e-9);
  mesh.scale.setScalar(scale);
  mesh.position.copy(box.getCenter(new THREE.Vector3()).multiplyScalar(-scale));
  scene.add(mesh);
  redraw();
  place("progress").hidden = true;
}

paint();
fit();
front();
showTurning();
renderer.setAnimationLoop(() => {
  controls.update();
  if (!changed) return;
  changed = false;
  renderer.render(scene, camera);
});
show().catch((error) => {
  place("progress").textContent = `This result cannot be shown: ${error.message}`;
});
