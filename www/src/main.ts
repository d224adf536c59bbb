import { App } from './app';
import { installTrustedTypesPolicy } from './trusted-types';

installTrustedTypesPolicy();

const root = document.getElementById('app');
if (root) void new App(root).start();
