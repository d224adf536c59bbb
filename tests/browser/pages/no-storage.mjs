// The package's worker in a browser that gives no storage, as in some private windows.
import './deny-storage.mjs';
import '/pkg/worker.js';
